/* Gain-cell attention on a CPU: the C interface.
 *
 * Everything is float32, row-major and contiguous. Dimensions: B sequences, H query heads, Hk key/value heads,
 * Tq queries, Tk keys, D head dimension, M columns of the ring, N columns of a sub-tile, R queries of a block,
 * n slabs. A token j lies in column j mod M, in sub-tile (j mod M) / N.
 *
 * A cell's charge separates over time about the first query i0 of a block (see time_basis.py):
 *
 *     F(u_j delta^(i-j)) = constant + sum_n row_n(i - i0) * slab_n(u_j, i0 - j)
 *
 * Arrays over the age i0 - j begin at `-margin`: entry a stands for age a - margin.
 */
#ifndef GAINCELL_NATIVE_H
#define GAINCELL_NATIVE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { GC_LEVEL_PORTABLE = 0, GC_LEVEL_AVX2 = 1, GC_LEVEL_AVX512 = 2, GC_LEVEL_AMX = 3, GC_LEVELS = 4 };
enum { GC_MAX_SLABS = 8, GC_TABLE = 16 };
enum { GC_READOUT_NONE = 0, GC_READOUT_COUNTER = 1, GC_READOUT_FLOOR = 2, GC_READOUT_EVEN = 3 };
enum { GC_OK = 0, GC_NOT_FINITE = 1, GC_BAD_ARGUMENT = 2, GC_NO_MEMORY = 3, GC_NO_SUCH_LEVEL = 4 };
enum { GC_POLYNOMIAL = 0, GC_BY_LEVEL = 1, GC_CURVE = 2, GC_TIMED = 3, GC_TIMED_CURVE = 4 };
enum { GC_FLOAT32 = 0, GC_BF16 = 1 };
enum { GC_AS_GIVEN = -1 }; /* q_levels: pulse widths are taken as they are, neither clamped nor quantised */

/* How cells separate over time. */
typedef struct {
    /* GC_POLYNOMIAL: slab_n = C_n (u cf)^p_n; GC_BY_LEVEL: a table; GC_CURVE: slab_n = F(u cf_n), pieces of cubics.
     * With cells that leak at rates of their own, slab_n = F(u exp(-rate cf_n)): GC_TIMED, a polynomial of each cell;
     * GC_TIMED_CURVE, pieces of cubics. */
    int32_t kind;
    int32_t count;                       /* n */
    int32_t orders[GC_MAX_SLABS];        /* p_n */
    float coefficients[GC_MAX_SLABS];    /* C_n */
    float constant;                      /* C_0 of cells that are all alike */
    const float *row_factors;            /* [n, R padded to 16] */
    const float *column_factors;         /* [ages]: delta^age; GC_CURVE: [ages, n]; timed: [ages, n], tokens */
    const float *table;                  /* GC_BY_LEVEL: [ages, n, GC_TABLE] slab of every level */
    const float *slopes;                 /* likewise d slab / d u */
    const float *curve;                  /* GC_CURVE: [pieces, 4], coefficients of 1, t, t^2, t^3 with t in [0, 1] */
    int32_t pieces;
    float curve_low, pieces_per_volt;    /* where the first piece begins, and how many there are per volt */
    /* Of every cell, or NULL. GC_POLYNOMIAL: C_n [Hk, M, n, D]; GC_CURVE: gain, shift in volts, and current offset of
     * gain F(u cf_n + shift) + offset [Hk, M, 3, D]. Timed, never NULL: the rate before these; GC_TIMED: C_0 ... of
     * `powers` coefficients. */
    const float *key_mismatch;
    const float *value_mismatch;
    int32_t powers;
} gc_cells;

/* Errors of converters and noise of reads: scores in units of S_sat, outputs in readout steps. */
typedef struct {
    const float *score_gain, *score_offset;   /* [Hk, M], or NULL */
    const float *output_gain, *output_offset; /* [Hk, M / N, D], or NULL */
    float score_std, output_std;              /* of a conversion */
    float score_of_cell, output_of_cell;      /* of one cell: times the root of the sum of squared pulse widths */
    float jitter_std;                         /* of a pulse width */
    uint32_t seed, chip, layer;               /* of the random numbers: see devices/random.py */
    int32_t present;                          /* 0: nothing of this */
} gc_errors;

typedef struct {
    int64_t batch, heads, kv_heads, queries, keys, dim;
    int64_t first_query, first_key;      /* token of the first query and key */
    int64_t window;                      /* tokens that a query sees: the ring, or less */
    int64_t columns, tile, rows;         /* M, N, R */
    int64_t margin, ages;                /* of arrays over the age: see above */
    const float *q, *k, *v;              /* [B, H, Tq, D], [B, Hk, Tk, D] */
    const float *q_gain, *q_offset;      /* [H], or all NULL: q in pulse widths, k and v in volts */
    const float *k_gain, *k_offset, *v_gain, *v_offset; /* [Hk] */
    int32_t q_levels;                    /* 0: not quantised; GC_AS_GIVEN */
    int32_t storage_levels;
    float low, high, middle;             /* write DAC: range and V_offset, V */
    float to_code, to_volts;             /* codes per volt, volts per code */
    int32_t readout;
    int32_t score_ceiling, score_exponent, output_ceiling;
    float steps;                         /* readout steps at full scale */
    float score_scale, output_scale;     /* 1 / S_sat, steps / O_sat */
    float score_margin, output_margin;   /* a clamp passes the gradient further inside than this, relative */
    gc_cells cells;
    gc_errors errors;
    /* First product in integers, exact, or NULL: charge of Q.X, Q.X^2, Q.(X^3 - top^2 X) / third for every age,
     * [3, ages], in units of S_sat; X = 2 code - (levels - 1), top = levels - 1. */
    const float *integer_factors;
    int32_t integer_third;
    float *out;                          /* [B, H, Tq, D], in units of full scale */
    const float *out_gain, *out_offset;  /* [H] or NULL */
    float *sum;                          /* out before these, [B, H, Tq, D], or NULL; gc_backward reads it where they are given */
    uint8_t *open;                       /* NULL, or [B, H, Tq, M / N, ceil(D / 8)]: not saturated, a bit each */
    int32_t threads, level;
} gc_problem;

typedef struct {
    const float *grad;                   /* of out, [B, H, Tq, D] */
    float *dq, *dk, *dv;                 /* [B, H, Tq, D], [B, Hk, Tk, D] */
    /* Of gain and offset, one sequence at a time, where the problem has them: [B, H, 2], [B, Hk, 2]. */
    float *q_scales, *k_scales, *v_scales, *out_scales;
    gc_cells cells;                      /* that the gradient goes through: the same, or linear ones */
    int32_t products;                    /* GC_FLOAT32, or GC_BF16: of one slab, its cells as old as they are on average
                                          * for the queries of a block */
} gc_gradient;

/* One query of every head against a ring of codes. S slots of the ring are looked at. */
typedef struct {
    int64_t batch, heads, kv_heads, dim;
    int64_t columns, tiles, slots;       /* of the ring [B, Hk, columns, D], sub-tiles, S */
    const float *q;                      /* [B, H, D], in pulse widths once scaled */
    const float *q_gain, *q_offset;      /* [H]: what is driven is gain times q plus offset; or NULL */
    const uint8_t *key, *value;          /* codes of the ring */
    const int32_t *positions;            /* [S]: column of the ring that a slot is in */
    const int32_t *tile_of;              /* [B, S]: sub-tile, -1 where the query does not see the slot */
    const float *left;                   /* [B, S]: what is left of the voltages, polynomial cells */
    const float *table;                  /* [B, S, GC_TABLE]: charge of every level now, or NULL: polynomial */
    int32_t order;                       /* of the polynomial */
    float coefficients[GC_MAX_SLABS + 1];
    gc_cells cells;                      /* key_mismatch NULL, or cells that differ: GC_POLYNOMIAL or GC_CURVE of `left` */
    gc_errors errors;                    /* without jitter */
    const uint32_t *query_tokens;        /* [B], for the random numbers; NULL where no errors are present */
    int32_t q_levels, storage_levels;
    float to_volts;
    int32_t readout, score_ceiling, score_exponent, output_ceiling;
    float steps, score_scale, output_scale;
    float *out;                          /* [B, H, D], in units of full scale */
    const float *out_gain, *out_offset;  /* [H] or NULL */
    int32_t threads, level;
} gc_step;

int gc_decode(const gc_step *step);

/* Tokens for a ring: the first in column `position`, the others in those after it, where only the last ones stay. */
typedef struct {
    int64_t batch, heads, tokens, dim;
    int64_t columns, position;           /* of the ring [B, Hk, columns, D] */
    const float *volts;                  /* [B, Hk, tokens, D], requested once scaled */
    const float *gain, *offset;          /* [Hk] or NULL */
    uint8_t *ring;                       /* codes of the write DACs */
    int32_t levels;
    float low, high, middle, to_code;
} gc_tokens;

int gc_write(const gc_tokens *tokens);

/* Forward pass: fills out, and open if it is given. */
int gc_forward(const gc_problem *problem);
/* Backward pass, with the same problem; reads open and sum, does not read or write out. */
int gc_backward(const gc_problem *problem, const gc_gradient *gradient);
/* The best level that this processor has. */
int gc_best_level(void);
/* Size of the structures as compiled: a binding that disagrees must not call. */
int64_t gc_sizeof_problem(void);
int64_t gc_sizeof_gradient(void);
int64_t gc_sizeof_step(void);
int64_t gc_sizeof_tokens(void);

#ifdef __cplusplus
}
#endif
#endif
