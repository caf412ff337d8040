/* The nearest integer, half to even: what is below the last bit of 2^23 is rounded away by the addition itself. */
static float nearest(float x)
{
    const float all = 8388608.0f;
    if (x >= 0.0f)
        return x < all ? (x + all) - all : x;
    return x > -all ? (x - all) + all : x;
}
