/* Where a padded coordinate comes from, -1 for nowhere. */
enum { CONSTANT, REFLECT, EDGE, WRAP };
static int32_t origin(int32_t i, int32_t size, int32_t mode)
{
    if (i >= 0 && i < size)
        return i;
    if (mode == REFLECT)
        return i < 0 ? -i : 2 * size - 2 - i;
    if (mode == EDGE)
        return i < 0 ? 0 : size - 1;
    if (mode == WRAP)
        return i < 0 ? i + size : i - size;
    return -1;
}

/* Edges of zeros (`fill` is a stored zero) or of what the mode says; `bytes` are those of a position. */
static void pad(const window *w, const uint8_t *restrict x, uint8_t *restrict y, int32_t bytes, int32_t mode, int32_t fill)
{
    for (int32_t i = 0; i < w->out_height * w->out_width; i++, y += bytes) {
        const int32_t iy = origin(i / w->out_width - w->up, w->height, mode);
        const int32_t ix = origin(i % w->out_width - w->left, w->width, mode);
        if (iy < 0 || ix < 0)
            memset(y, fill, (size_t)bytes);
        else
            memcpy(y, x + (iy * w->width + ix) * bytes, (size_t)bytes);
    }
}
