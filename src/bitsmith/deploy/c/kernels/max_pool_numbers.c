/* The same of numbers; each window has one at least. */
static void max_pool_numbers(const window *w, const uint8_t *restrict x, uint8_t *restrict y)
{
    for (int32_t i = 0; i < w->out_height * w->out_width * w->channels; i++) {
        const int32_t position = i / w->channels, c = i % w->channels;
        const int32_t row = position / w->out_width * w->stride_down - w->up;
        const int32_t column = position % w->out_width * w->stride_right - w->left;
        number best = 0, next;
        int32_t seen = 0;
        for (int32_t ky = 0; ky < w->kernel_height; ky++)
            for (int32_t kx = 0; kx < w->kernel_width; kx++) {
                const int32_t iy = row + ky * w->dilation_down, ix = column + kx * w->dilation_right;
                if (iy < 0 || iy >= w->height || ix < 0 || ix >= w->width)
                    continue;
                memcpy(&next, x + (size_t)((iy * w->width + ix) * w->channels + c) * sizeof next, sizeof next);
                best = !seen || next > best ? next : best;
                seen = 1;
            }
        memcpy(y + (size_t)i * sizeof best, &best, sizeof best);
    }
}
