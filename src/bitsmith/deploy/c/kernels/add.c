/* Sums of tensors of one step: clip(a + b + ... - zeros + zero); `offset` is what the zeros come to. */
static void add(const uint8_t *const *operands, int32_t count, int32_t offset, int32_t top, uint8_t *restrict y, int32_t n)
{
    enum { BAND = 64 };
    for (int32_t start = 0; start < n; start += BAND) {
        int32_t sums[BAND];
        const int32_t m = n - start < BAND ? n - start : BAND;
        for (int32_t i = 0; i < m; i++)
            sums[i] = offset;
        for (int32_t k = 0; k < count; k++) {
            const uint8_t *restrict x = operands[k] + start;
            for (int32_t i = 0; i < m; i++)
                sums[i] += x[i];
        }
        for (int32_t i = 0; i < m; i++) {
            const int32_t sum = sums[i] < 0 ? 0 : sums[i];
            y[start + i] = (uint8_t)(sum > top ? top : sum);
        }
    }
}
