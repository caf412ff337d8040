/* Channels as a matrix of groups x (channels / groups), transposed; each takes `size` bytes. */
static void shuffle(const uint8_t *restrict x, uint8_t *restrict y, int32_t positions, int32_t groups, int32_t each, int32_t size)
{
    for (int32_t i = 0; i < positions; i++)
        for (int32_t g = 0; g < groups; g++)
            for (int32_t c = 0; c < each; c++)
                memcpy(y + ((i * each + c) * groups + g) * size, x + ((i * groups + g) * each + c) * size, (size_t)size);
}
