/* A level of a grid: clip(rint(total * multiplier)); clipping first is the same, as the bounds are integers. */
static int32_t level(int32_t total, factor multiplier, int32_t zero, int32_t top)
{
    /* Between the bounds, 1.5 * 2^23 leaves no bit for a fraction. */
    const float magic = 12582912.0f, low = (float)-zero, high = (float)(top - zero);
    float x = (float)total * multiplier;
    x = x < low ? low : x;
    x = x > high ? high : x;
    return (int32_t)((x + magic) - magic) + zero;
}

static number value(int32_t total, factor multiplier)
{
    return (float)total * multiplier;
}
