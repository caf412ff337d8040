/* For bitsmith's own check alone: what each operator writes, and what each layer unpacks its parameters to. */
void model_trace(int32_t place, int32_t kind, const void *data, uint32_t bytes);
{%- if "conv_layer" in kernels %}
static void trace_layer(int32_t place, const conv_layer *l, int32_t per_filter)
{
    enum { BAND = 256 };
    const int32_t size = l->w.kernel_height * l->w.kernel_width * l->depth;
    weight unpacked[BAND];
    int8_t narrow[BAND];
    for (const part *p = l->parts; p < l->parts + l->part_count; p++)
        for (int32_t j = 0; j < p->count; j++) {
            const int32_t filter = filter_of(p, j);
            const channel c = channel_of(l, p, j);
            model_trace(place, 'f', &filter, sizeof filter);
            model_trace(place, 'b', &c.bias, sizeof c.bias);
            model_trace(place, 'm', &c.multiplier, sizeof c.multiplier);
            for (int32_t first = 0; first < size; first += BAND) {
                const int32_t n = size - first < BAND ? size - first : BAND;
                if (per_filter)
                    unpack(p, j * size + first, n, unpacked);
                else
                    for (int32_t i = 0; i < n; i++)
                        unpack(p, (first + i) * p->count + j, 1, unpacked + i);
                for (int32_t i = 0; i < n; i++)
                    narrow[i] = (int8_t)(p->half[j] & 0x8000u ? 0 : unpacked[i]);
                model_trace(place, 'w', narrow, (uint32_t)n);
            }
        }
}
{%- endif %}
