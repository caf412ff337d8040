/* A half-precision number between 2^-14 and 1; its sign is a mark that means something else. */
static float half_number(uint16_t half)
{
    const uint32_t bits = ((uint32_t)(half & 0x7fffu) << 13) + (112u << 23);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* bias = rint(stored * granule / half), multiplier = input step * (layer scale * half) / output step */
static channel channel_of(const conv_layer *l, const part *p, int32_t j)
{
    const float half = half_number(p->half[j]);
    channel c;
    c.bias = (int32_t)nearest((float)p->bias[j] * l->granule / half);
    c.multiplier = l->input_step * (l->layer_scale * half);
    if (l->out.form != NUMBERS)
        c.multiplier /= l->out.step;
    return c;
}
