static factor shared_by(factor f, int32_t count)
{
    int64_t mantissa = ((int64_t)f.mantissa << 24) / count;
    f.shift += 24;
    for (; mantissa >= (int64_t)1 << 31; mantissa >>= 1)
        f.shift--;
    f.mantissa = (int32_t)mantissa;
    return f;
}
