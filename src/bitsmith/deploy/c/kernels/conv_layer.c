/* Filters of one bit-width: their weights as one stream of numbers of `bits` bits, the first from the least bit up.
   A number u is the weight u * gain - offset; 8 bits are plain int8. Within a filter weights are ordered by row,
   column, channel; in depthwise layers by row, column, filter. */
typedef struct {
    const uint8_t *stream;
    const {{ filter_type }} *filters; /* which filter of the layer comes where; none: they are in order */
    const uint16_t *half;   /* half-precision scale of a filter, negative where all its weights are zero */
    const int16_t *bias;
    dim first, count; /* the first of the layer's filters, where they are in order */
    uint8_t bits;
    int16_t gain, offset;
} part;

/* A convolution, or a fully connected layer, which is one of a single pixel. */
typedef struct {
    window w;
    dim depth;       /* channels that a filter reads */
    dim per_group;   /* filters that read the same channels */
    const part *parts;
    uint8_t part_count;
    uint8_t zero;    /* stored zero of what it reads */
    const uint8_t *narrow;  /* tables that bring the input onto the layer's own grid; none: it is there */
    const uint8_t *widths;  /* which of these tables a channel takes; none: all take the first */
    grid out;
{%- if fpu %}
    float input_step, layer_scale, granule;
{%- else %}
    factor multiplier; /* input step * layer scale / output step */
    int8_t granule;    /* binary exponent */
{%- endif %}
} conv_layer;
{% if "conv" not in kernels %}
#ifdef MODEL_TRACE
{%- endif %}
static int32_t filter_of(const part *p, int32_t j)
{
    return p->filters ? (int32_t)p->filters[j] : p->first + j;
}
{%- if "conv" not in kernels %}
#endif
{%- endif %}
