/* A filter for each channel, a band of channels at a time; its weights are unpacked once for the whole map. */
static void depthwise(const conv_layer *l, const uint8_t *restrict x, uint8_t *restrict y)
{
    enum { BAND = 16, TAPS = {{ depthwise_taps }} };
    weight filters[BAND * TAPS];
    channel channels[BAND];
    const window *w = &l->w;
    const part *p = l->parts;
    for (int32_t start = 0; start < w->channels; start += BAND) {
        const int32_t n = w->channels - start < BAND ? w->channels - start : BAND;
        memset(filters, 0, sizeof filters);
        for (int32_t tap = 0; tap < w->kernel_height * w->kernel_width; tap++)
            unpack(p, tap * w->channels + start, n, filters + tap * BAND);
        for (int32_t c = 0; c < n; c++) {
            channels[c] = channel_of(l, p, start + c);
            if (p->half[start + c] & 0x8000u)
                for (int32_t tap = 0; tap < TAPS; tap++)
                    filters[tap * BAND + c] = 0;
        }
        for (int32_t i = 0; i < w->out_height * w->out_width; i++) {
            const int32_t row = i / w->out_width * w->stride_down - w->up;
            const int32_t column = i % w->out_width * w->stride_right - w->left;
            int32_t sums[BAND] = {0};
            for (int32_t ky = 0; ky < w->kernel_height; ky++) {
                const int32_t iy = row + ky * w->dilation_down;
                if (iy < 0 || iy >= w->height)
                    continue;
                for (int32_t kx = 0; kx < w->kernel_width; kx++) {
                    const int32_t ix = column + kx * w->dilation_right;
                    const weight *f = filters + (ky * w->kernel_width + kx) * BAND;
                    if (ix < 0 || ix >= w->width)
                        continue;
                    const uint8_t *from = x + (iy * w->width + ix) * w->channels + start;
{%- if narrows_maps %}
                    if (l->widths)
                        for (int32_t c = 0; c < n; c++)
                            sums[c] += (l->narrow[256 * l->widths[start + c] + from[c]] - l->zero) * f[c];
                    else
{%- endif %}
{%- if narrows %}
                    if (l->narrow)
                        for (int32_t c = 0; c < n; c++)
                            sums[c] += (l->narrow[from[c]] - l->zero) * f[c];
                    else
{%- endif %}
                    if (n == BAND)
                        for (int32_t c = 0; c < BAND; c++)
                            sums[c] += (from[c] - l->zero) * f[c];
                    else
                        for (int32_t c = 0; c < n; c++)
                            sums[c] += (from[c] - l->zero) * f[c];
                }
            }
            for (int32_t c = 0; c < n; c++)
                store(y, i * w->channels + start + c, sums[c] + channels[c].bias, channels[c].multiplier, &l->out);
        }
    }
}
