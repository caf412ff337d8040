/* Numbers onto the first grid: rint((x * gain + offset) / step); a NaN becomes the lowest level. */
static void quantize(const float *x, const float *gain, const float *offset, const grid *g, uint8_t *restrict y, int32_t n, int32_t channels)
{
    const float low = -(float)g->zero, high = (float)(g->top - g->zero);
    for (int32_t i = 0, c = 0; i < n; i++, c = c + 1 < channels ? c + 1 : 0) {
        float v = x[i];
        if (gain) {
            v *= gain[c];
            v += offset[c];
        }
        if (g->form == SIGNS) {
            y[i] = v >= 0.0f ? 2 : 0;
            continue;
        }
        v /= g->step;
        v = v > low ? v : low;
        v = v < high ? v : high;
        y[i] = (uint8_t)((int32_t)nearest(v) + g->zero);
    }
}
