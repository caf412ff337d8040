/* Some bytes of each position, through a table where there is one: concatenation and splitting of channels. */
static void copy(const uint8_t *restrict x, int32_t from, int32_t to, uint8_t *restrict y, int32_t bytes,
                 int32_t positions, const uint8_t *table)
{
    for (int32_t i = 0; i < positions; i++)
        for (int32_t c = 0; c < bytes; c++)
            y[i * to + c] = table ? table[x[i * from + c]] : x[i * from + c];
}
