/* A function of one byte, the same for all channels or (stride 256) a table for each. */
static void lookup(const uint8_t *table, int32_t stride, const uint8_t *x, uint8_t *y, int32_t n, int32_t channels)
{
    for (int32_t i = 0, c = 0; i < n; i++, c = c + 1 < channels ? c + 1 : 0)
        y[i] = table[stride * c + x[i]];
}
