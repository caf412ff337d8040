/* Writes what a sum, its bias included, comes to: a level or a number. */
static void store(uint8_t *y, int32_t index, int32_t total, factor multiplier, const grid *g)
{
    if (g->form == LEVELS) {
        y[index] = (uint8_t)level(total, multiplier, g->zero, g->top);
    } else if (g->form == SIGNS) {
        y[index] = total >= 0 ? 2 : 0;
    } else {
        const number x = value(total, multiplier);
        memcpy(y + (size_t)index * sizeof x, &x, sizeof x);
    }
}
