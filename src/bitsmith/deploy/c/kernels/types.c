/* How an activation is stored: (stored - zero) * step in one byte, 0..top. SIGNS holds -1 and +1 as 0 and 2;
   NUMBERS is no grid: what is written stays a number of four bytes. */
enum { LEVELS, SIGNS, NUMBERS };
typedef struct {
{%- if fpu %}
    float step;
{%- endif %}
    uint8_t form, zero, top;
} grid;

/* A window that slides over maps of height x width x channels. */
typedef struct {
    dim height, width, channels;
    dim out_height, out_width, out_channels;
    dim kernel_height, kernel_width, stride_down, stride_right;
    dim up, left; /* padding before the first row and column */
    dim dilation_down, dilation_right;
} window;

/* What turns the sums of one channel into levels. */
typedef struct {
    int32_t bias;
    factor multiplier;
} channel;
