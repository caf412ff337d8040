/* Products of two tensors, the second of the same shape or one number for each channel. */
typedef struct {
    uint8_t zero_a, zero_b;
    grid out;
    factor multiplier; /* step of a * step of b / output step */
} multiply_layer;

static void multiply(const multiply_layer *l, const uint8_t *a, const uint8_t *b, uint8_t *restrict y, int32_t n, int32_t period)
{
    for (int32_t i = 0, k = 0; i < n; i++, k = k + 1 < period ? k + 1 : 0)
        store(y, i, (a[i] - l->zero_a) * (b[k] - l->zero_b), l->multiplier, &l->out);
}
