/* product * 2^-shift, half to even. Compilers shift negative numbers arithmetically, which C leaves to them. */
static int64_t shifted(int64_t product, int32_t shift)
{
    if (shift <= 0)
        return product;
    if (shift > 62)
        return 0;
    const int64_t unit = (int64_t)1 << shift, half = unit >> 1;
    const int64_t rest = product & (unit - 1), whole = product >> shift;
    return whole + (rest > half || (rest == half && (whole & 1)));
}

/* A level of a grid: clip(rint(total * multiplier)). */
static int32_t level(int32_t total, factor multiplier, int32_t zero, int32_t top)
{
    int64_t x = shifted((int64_t)total * multiplier.mantissa, multiplier.shift) + zero;
    x = x < 0 ? 0 : x;
    x = x > top ? top : x;
    return (int32_t)x;
}

static number value(int32_t total, factor multiplier)
{
    return (number)shifted((int64_t)total * multiplier.mantissa, multiplier.shift);
}
