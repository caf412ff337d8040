/* No floating point: a factor is mantissa * 2^-shift. */
typedef struct {
    int32_t mantissa;
    int32_t shift;
} factor;
typedef int32_t number; /* of the outputs, in units of MODEL_OUTPUT_STEP */
