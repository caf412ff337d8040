/* What stored bytes mean, as the outputs{% if not fpu %}, in units of their step{% endif %}. */
static void dequantize(const uint8_t *restrict x, {% if fpu %}float step, {% endif %}int32_t zero, uint8_t *restrict y, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        const number v = {% if fpu %}(float)(x[i] - zero) * step{% else %}x[i] - zero{% endif %};
        memcpy(y + (size_t)i * sizeof v, &v, sizeof v);
    }
}
