#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__)
#error "this network needs float32 as IEEE 754 has it: no -ffast-math, -funsafe-math-optimizations, -Ofast"
#endif
/* 16: half precision is computed as it is, and float32 too */
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16
#error "this network needs float32 computed as float32: no x87 (use -msse2 -mfpmath=sse)"
#endif
typedef float number; /* of the outputs */
typedef float factor; /* from sums to levels */
