/* Scratch on the stack; less of it means more unpacking. The sums of MODEL_TILE positions are made together, on
   MODEL_CHUNK weights of each of four filters at a time. */
#ifndef MODEL_CHUNK
#define MODEL_CHUNK (WIDE ? 1024 : 144)
#endif
#ifndef MODEL_COLUMNS
#define MODEL_COLUMNS (WIDE ? 65536 : 1152)
#endif
#ifndef MODEL_TILE
#define MODEL_TILE (WIDE ? 256 : 16)
#endif
#if MODEL_CHUNK < LANES || MODEL_CHUNK % LANES || MODEL_COLUMNS < MODEL_CHUNK || MODEL_TILE < 1
#error "MODEL_CHUNK has to be a multiple of LANES, MODEL_COLUMNS at least MODEL_CHUNK, MODEL_TILE at least 1"
#endif

/* The window of one position, or the part of it that `count` weights of a filter meet from row ky, column kx and
   channel c of the kernel on: bytes by row, column and channel, outside the image the stored zero. */
static void gather(const conv_layer *l, const uint8_t *restrict x, int32_t row, int32_t column, int32_t group,
                   int32_t ky, int32_t kx, int32_t c, int32_t count, uint8_t *restrict to)
{
    const window *w = &l->w;
    const int32_t depth = l->depth, whole = depth == w->channels && w->dilation_right == 1;
    while (count > 0) {
        const int32_t iy = row + ky * w->dilation_down, ix = column + kx * w->dilation_right;
        int32_t taps = 1, n;
        if (whole) /* neighbors in a row of the image are neighbors in memory */
            taps = ix < 0 ? w->kernel_width - kx < -ix ? w->kernel_width - kx : -ix
                          : ix < w->width && w->kernel_width - kx > w->width - ix ? w->width - ix : w->kernel_width - kx;
        n = taps * depth - c;
        n = n < count ? n : count;
        if (iy < 0 || iy >= w->height || ix < 0 || ix >= w->width) {
            memset(to, l->zero, (size_t)n);
        } else {
            const uint8_t *from = x + (iy * w->width + ix) * w->channels + group * depth + c;
{%- if narrows_maps %}
            if (l->widths)
                for (int32_t i = 0, k = c; i < n; i++, k = k + 1 < depth ? k + 1 : 0)
                    to[i] = l->narrow[256 * l->widths[group * depth + k] + from[i]];
            else
{%- endif %}
{%- if narrows %}
            if (l->narrow)
                for (int32_t i = 0; i < n; i++)
                    to[i] = l->narrow[from[i]];
            else
{%- endif %}
                memcpy(to, from, (size_t)n);
        }
        to += n;
        count -= n;
        kx += taps; /* unless the count is reached */
        c = 0;
        if (kx >= w->kernel_width)
            kx = 0, ky++;
    }
}

/* Four sums over the same bytes; n is a multiple of LANES, which leaves vector code without a tail. */
static void dot4(const uint8_t *restrict x, const weight *restrict w, int32_t n, int32_t *restrict sums)
{
    const weight *restrict w1 = w + n, *restrict w2 = w1 + n, *restrict w3 = w2 + n;
    int32_t a = 0, b = 0, c = 0, d = 0;
    n = n / LANES * LANES;
    for (int32_t i = 0; i < n; i++) {
        const int32_t u = x[i];
        a += u * w[i];
        b += u * w1[i];
        c += u * w2[i];
        d += u * w3[i];
    }
    sums[0] += a;
    sums[1] += b;
    sums[2] += c;
    sums[3] += d;
}

/* Tiles of positions, outermost: their windows are gathered once, each filter is unpacked once for all of them. Filters
   too long for that (MODEL_CHUNK) are summed piece by piece, and the pieces of the windows gathered for each. */
static void conv(const conv_layer *l, const uint8_t *x, uint8_t *y)
{
    uint8_t columns[MODEL_COLUMNS];
    weight filters[4 * MODEL_CHUNK];
    int32_t sums[4 * MODEL_TILE];
    int32_t biases[4] = {0, 0, 0, 0};
    factor multipliers[4];
    memset(multipliers, 0, sizeof multipliers);
    const window *w = &l->w;
    const int32_t size = w->kernel_height * w->kernel_width * l->depth, positions = w->out_height * w->out_width;
    const int32_t chunk = size < MODEL_CHUNK ? size : MODEL_CHUNK;
    const int32_t pitch = (chunk + LANES - 1) / LANES * LANES;
    const int32_t fitting = MODEL_COLUMNS / pitch, tile = fitting < MODEL_TILE ? fitting : MODEL_TILE;
{%- if narrows %}
    /* A window next to another is the same but for `shift` bytes of each row, so that few are looked up in a table. */
    const int32_t span = w->kernel_width * l->depth, shift = w->stride_right * l->depth;
    const int32_t slides = l->narrow && chunk == size && w->dilation_right == 1 && shift < span;
{%- endif %}
    for (int32_t start = 0; start < positions; start += tile) {
        const int32_t count = positions - start < tile ? positions - start : tile;
        int32_t gathered = -1;
        for (const part *p = l->parts; p < l->parts + l->part_count; p++) {
            int32_t block;
            for (int32_t j = 0; j < p->count; j += block) {
                const int32_t group = filter_of(p, j) / l->per_group;
                int32_t totals[4] = {0, 0, 0, 0};
                for (block = 1; block < 4 && j + block < p->count; block++)
                    if (filter_of(p, j + block) / l->per_group != group)
                        break;
                memset(sums, 0, (size_t)count * 4 * sizeof *sums);
                for (int32_t first = 0; first < size; first += chunk) {
                    const int32_t n = size - first < chunk ? size - first : chunk;
                    if (chunk < size || group != gathered) {
                        const int32_t c = first % l->depth, tap = first / l->depth;
                        const int32_t ky = tap / w->kernel_width, kx = tap % w->kernel_width;
                        int32_t oy = start / w->out_width, ox = start % w->out_width;
                        for (int32_t i = 0; i < count; i++) {
                            uint8_t *to = columns + i * pitch;
                            const int32_t row = oy * w->stride_down - w->up, column = ox * w->stride_right - w->left;
{%- if narrows %}
                            if (slides && i > 0 && ox > 0)
                                for (int32_t r = 0; r < w->kernel_height; r++) {
                                    uint8_t *line = to + r * span;
                                    memcpy(line, line - pitch + shift, (size_t)(span - shift));
                                    gather(l, x, row, column, group, r, w->kernel_width - w->stride_right, 0, shift,
                                           line + span - shift);
                                }
                            else
{%- endif %}
                                gather(l, x, row, column, group, ky, kx, c, n, to);
                            memset(to + n, 0, (size_t)(pitch - n));
                            if (++ox == w->out_width)
                                ox = 0, oy++;
                        }
                        gathered = group;
                    }
                    memset(filters, 0, (size_t)(4 * pitch) * sizeof *filters);
                    for (int32_t b = 0; b < block; b++)
                        if (!(p->half[j + b] & 0x8000u))
                            totals[b] += unpack(p, (j + b) * size + first, n, filters + b * pitch);
                    for (int32_t i = 0; i < count; i++)
                        dot4(columns + i * pitch, filters, pitch, sums + 4 * i);
                }
                for (int32_t b = 0; b < block; b++) {
                    const channel c = channel_of(l, p, j + b);
                    biases[b] = c.bias - l->zero * totals[b];
                    multipliers[b] = c.multiplier;
                }
                if (l->out.form == LEVELS) /* all four at once, which vectors do */
                    for (int32_t i = 0; i < count; i++)
                        for (int32_t b = 0; b < 4; b++)
                            sums[4 * i + b] = level(sums[4 * i + b] + biases[b], multipliers[b], l->out.zero, l->out.top);
                for (int32_t b = 0; b < block; b++) {
                    uint8_t *to = y + start * w->out_channels + filter_of(p, j + b);
                    if (l->out.form == LEVELS)
                        for (int32_t i = 0; i < count; i++)
                            to[i * w->out_channels] = (uint8_t)sums[4 * i + b];
                    else
                        for (int32_t i = 0; i < count; i++)
                            store(y, (start + i) * w->out_channels + filter_of(p, j + b), sums[4 * i + b] + biases[b],
                                  multipliers[b], &l->out);
                }
            }
        }
    }
}
