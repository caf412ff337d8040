/* The largest of each window; padding never wins. */
static void max_pool(const window *w, const uint8_t *restrict x, uint8_t *restrict y)
{
    for (int32_t i = 0; i < w->out_height * w->out_width; i++, y += w->channels) {
        const int32_t row = i / w->out_width * w->stride_down - w->up;
        const int32_t column = i % w->out_width * w->stride_right - w->left;
        memset(y, 0, (size_t)w->channels);
        for (int32_t ky = 0; ky < w->kernel_height; ky++)
            for (int32_t kx = 0; kx < w->kernel_width; kx++) {
                const int32_t iy = row + ky * w->dilation_down, ix = column + kx * w->dilation_right;
                if (iy < 0 || iy >= w->height || ix < 0 || ix >= w->width)
                    continue;
                const uint8_t *from = x + (iy * w->width + ix) * w->channels;
                for (int32_t c = 0; c < w->channels; c++)
                    y[c] = from[c] > y[c] ? from[c] : y[c];
            }
    }
}
