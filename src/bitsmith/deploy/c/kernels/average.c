/* Means of windows. Padding counts as zeros, or (by_window) isn't counted. */
typedef struct {
    window w;
    uint8_t zero, by_window;
    grid out;
    factor multiplier; /* input step / output step, over the size of a window unless by_window */
} average_layer;

static void average(const average_layer *l, const uint8_t *restrict x, uint8_t *restrict y)
{
    const window *w = &l->w;
    for (int32_t i = 0; i < w->out_height * w->out_width; i++) {
        const int32_t row = i / w->out_width * w->stride_down - w->up;
        const int32_t column = i % w->out_width * w->stride_right - w->left;
        const int32_t top = row < 0 ? 0 : row, left = column < 0 ? 0 : column;
        const int32_t bottom = row + w->kernel_height < w->height ? row + w->kernel_height : w->height;
        const int32_t right = column + w->kernel_width < w->width ? column + w->kernel_width : w->width;
        factor multiplier = l->multiplier;
{%- if averages_by_window %}
        if (l->by_window)
            multiplier = shared_by(multiplier, (bottom - top) * (right - left));
{%- endif %}
        for (int32_t c = 0; c < w->channels; c++) {
            int32_t total = 0;
            for (int32_t iy = top; iy < bottom; iy++)
                for (int32_t ix = left; ix < right; ix++)
                    total += x[(iy * w->width + ix) * w->channels + c] - l->zero;
            store(y, i * w->channels + c, total, multiplier, &l->out);
        }
    }
}
