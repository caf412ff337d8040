#if defined(__FAST_MATH__) || (defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0)
#error "this network needs float32 as IEEE 754 has it: no -ffast-math, no x87 (use -msse2 -mfpmath=sse)"
#endif
typedef float number; /* of the outputs */
typedef float factor; /* from sums to levels */
