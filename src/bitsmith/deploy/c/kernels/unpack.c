{%- for bits in unpacked_bits %}
/* {{ bits }} bits: eight numbers are {{ bits }} whole byte{{ "s" if bits > 1 }}. */
static void unpack_{{ bits }}(const uint8_t *restrict stream, int32_t groups, int32_t gain, int32_t offset, weight *restrict w)
{
    for (int32_t i = 0; i < groups; i++) {
{%- if bits <= 4 %}
        uint32_t u = 0;
{%- else %}
        uint64_t u = 0;
{%- endif %}
        for (int32_t j = 0; j < {{ bits }}; j++)
            u |= ({{ "uint32_t" if bits <= 4 else "uint64_t" }})stream[{{ bits }} * i + j] << (8 * j);
        for (int32_t j = 0; j < 8; j++)
            w[8 * i + j] = (weight)((int32_t)((u >> ({{ bits }} * j)) & {{ 2 ** bits - 1 }}u) * gain - offset);
    }
}
{% endfor %}
/* Weights first .. first + count - 1 of a stream; returns their sum. */
static int32_t unpack(const part *p, int32_t first, int32_t count, weight *restrict w)
{
    const uint8_t *stream = p->stream;
    const int32_t bits = p->bits, mask = (1 << bits) - 1;
    int32_t i = 0, sum = 0;
{%- if has_bytes %}
    if (bits == 8)
        for (; i < count; i++)
            w[i] = (weight)(int8_t)stream[first + i];
{%- endif %}
{%- if unpacked_bits %}
    if (first % 8 == 0) {
        const uint8_t *bytes = stream + first / 8 * bits;
        switch (bits) {
{%- for bits in unpacked_bits %}
        case {{ bits }}: unpack_{{ bits }}(bytes, count / 8, p->gain, p->offset, w), i = count / 8 * 8; break;
{%- endfor %}
        default: break;
        }
    }
    for (; i < count; i++) { /* what is left, or all where the first number starts within a byte */
        const uint32_t bit = (uint32_t)(first + i) * (uint32_t)bits;
        const uint8_t *byte = stream + bit / 8;
        int32_t u = byte[0] >> bit % 8;
        if (bit % 8 + (uint32_t)bits > 8)
            u |= byte[1] << (8 - bit % 8);
        w[i] = (weight)((u & mask) * p->gain - p->offset);
    }
{%- else %}
    (void)mask;
{%- endif %}
    for (i = 0; i < count; i++)
        sum += w[i];
    return sum;
}
