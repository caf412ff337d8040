/* a * 2^up / b, half away from zero; b > 0. */
static int64_t divided(int64_t a, int64_t b, int32_t up)
{
    const int64_t top = (a < 0 ? -a : a) << (up > 0 ? up : 0), below = b << (up < 0 ? -up : 0);
    const int64_t whole = (2 * top + below) / (2 * below);
    return a < 0 ? -whole : whole;
}
