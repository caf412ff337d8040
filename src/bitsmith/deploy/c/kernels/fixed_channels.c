/* A half-precision number is (1024 + fraction) * 2^(exponent - 25); its sign is a mark that means something else.
   bias = rint(stored * granule / half) with the granule 2^granule, multiplier = layer multiplier * half */
static channel channel_of(const conv_layer *l, const part *p, int32_t j)
{
    const int32_t fraction = 1024 + (p->half[j] & 1023), exponent = ((p->half[j] >> 10) & 31) - 25;
    const int32_t up = l->granule - exponent;
    channel c;
    c.bias = up <= -32 ? 0 : (int32_t)divided(p->bias[j], fraction, up);
    c.multiplier.mantissa = (int32_t)(((int64_t)l->multiplier.mantissa * fraction) >> 10);
    c.multiplier.shift = l->multiplier.shift - (exponent + 10);
    return c;
}
