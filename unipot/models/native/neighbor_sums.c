/* Partial derivatives of
 *
 *     T(R, Y, h, G) = sum_e sum_l sum_k sum_m sum_f  R[e,l,k] Y[e,l,m] h[j(e),f] G_l[i(e),m,k,f],      l = 0, 1, 2
 *
 * and their derivatives along (R', Y', h'). T is linear in each argument, so dT/dG are the moments of the neighbours, and
 * the derivative of anything here is made of the same sums. See neighbor_sums.py, which is the only caller.
 *
 * Letters: i centre, j neighbour, e edge, k radial function, m component, q = (l, m, k) coefficient, f feature.
 *
 * One centre after another, at most EDGES of its edges at a time. Everything heavy is a small matrix product `multiply`
 * on copies in the first-level cache; tables with one column per edge (coefficients, their gradients) keep edges in the
 * lanes of a vector. The file includes itself once per floating type. No sum depends on the number of threads.
 */
#ifndef REAL

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define ROWS 6
#define VECTORS 4
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define ROWS 6
#define VECTORS 2
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define ROWS 6
#define VECTORS 4
#else
#define VECTOR_BYTES 16
#define ROWS 4
#define VECTORS 2
#endif
#define EDGES 64
#define N_ANGULAR 8
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

/* rows trace/sqrt(3) and the five symmetric traceless components of a 3x3 matrix, as `trace_and_traceless` in geometry.py */
#define H 0.70710678118654752440
#define S 0.40824829046386301637
#define T 0.57735026918962576451
static const double coupling[6][3][3] = {
    {{T, 0, 0}, {0, T, 0}, {0, 0, T}}, {{0, H, 0}, {H, 0, 0}, {0, 0, 0}}, {{0, 0, 0}, {0, 0, H}, {0, H, 0}},
    {{0, 0, H}, {0, 0, 0}, {H, 0, 0}}, {{H, 0, 0}, {0, -H, 0}, {0, 0, 0}}, {{-S, 0, 0}, {0, -S, 0}, {0, 0, 2 * S}}};
#undef H
#undef S
#undef T

/* The same order as `_Job` in neighbor_sums.py. A null pointer: not given, or not wanted. */
typedef struct {
    int64_t n_atoms, n_edges, n_features, n_radial, n_shapes[3], n_threads;
    int64_t of_vectors; /* features are (n_atoms, 3, n_features / 3): see `move_vector_moments` */
    const int64_t *first_edge, *neighbor;                     /* (n_atoms + 1), (n_edges) */
    const void *radial, *angular, *features, *gradients[3];   /* R (n_edges, n_radial), Y (n_edges, 8), h, G_l */
    const void *radial_along, *angular_along, *features_along; /* R', Y', h' */
    void *moments[3], *radial_out, *angular_out, *features_out; /* dT/dG_l, dT/dR, dT/dY, dT/dh, or their changes along */
    int64_t along; /* 0: the derivatives themselves; 1: their derivatives along (R', Y', h') */
} Job;

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

#define REAL float
#define NAME(x) x##_float32
#include __FILE__
#undef REAL
#undef NAME
#define REAL double
#define NAME(x) x##_float64
#include __FILE__

#else

#define VEC NAME(vec)
#define TABLES NAME(tables)
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(REAL)))
#define PADDED(n) (((n) + LANES - 1) / LANES * LANES)
typedef REAL VEC __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

/* c[r, :] (+)= sum_p a[r, p] b[p, :] for `rows` rows and `vectors` vectors of columns, all sums in registers */
INLINE void NAME(tile)(const int rows, const int vectors, int64_t depth, const REAL *a, int64_t a_row, int64_t a_depth,
                       const REAL *b, int64_t b_depth, REAL *c, int64_t c_row, int add) {
    VEC sum[ROWS][VECTORS];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = add ? *(VEC *)(c + r * c_row + v * LANES) : (VEC){0};
    for (int64_t p = 0; p < depth; p++) {
        VEC row[VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) row[v] = *(const VEC *)(b + p * b_depth + v * LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            const REAL factor = a[r * a_row + p * a_depth];
            UNROLL for (int v = 0; v < vectors; v++) sum[r][v] += factor * row[v];
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) *(VEC *)(c + r * c_row + v * LANES) = sum[r][v];
}

/* c (n_rows, n_columns) (+)= a (n_rows, depth) b (depth, n_columns); n_columns a multiple of LANES; strides in elements */
static void NAME(multiply)(int64_t n_rows, int64_t n_columns, int64_t depth, const REAL *a, int64_t a_row, int64_t a_depth,
                           const REAL *b, int64_t b_depth, REAL *c, int64_t c_row, int add) {
#define TILE(r, v) \
    case (r) * 8 + (v): NAME(tile)(r, v, depth, a + row * a_row, a_row, a_depth, b + column, b_depth, c + row * c_row + column, c_row, add); break;
#define TILES(r) TILE(r, 1) TILE(r, 2) TILE_3_4(r)
#if VECTORS == 4
#define TILE_3_4(r) TILE(r, 3) TILE(r, 4)
#else
#define TILE_3_4(r)
#endif
    for (int64_t column = 0; column < n_columns; column += VECTORS * LANES)
        for (int64_t row = 0; row < n_rows; row += ROWS)
            switch (smaller(ROWS, n_rows - row) * 8 + smaller(VECTORS, (n_columns - column) / LANES)) {
                TILES(1) TILES(2) TILES(3) TILES(4)
#if ROWS == 6
                TILES(5) TILES(6)
#endif
            }
#undef TILE
#undef TILES
#undef TILE_3_4
}

/* Working memory of one thread; edge tables have a row per k, m, q or f and one column per edge, `width` columns. */
typedef struct {
    REAL *radial, *angular, *radial_along, *angular_along, *coefficient, *coefficient_along, *slope, *slope_along;
    REAL *radial_out, *angular_out;
    REAL *features, *features_along, *message; /* (EDGES, padded F) */
    REAL *transposed;                          /* (F, width) */
    REAL *gradient, *moments;                  /* (Q, padded F) */
} TABLES;

static REAL *NAME(new_tables)(const Job *job, int64_t n_coefficients, TABLES *t) {
    const int64_t wide = PADDED(job->n_features), edges = PADDED(EDGES);
    const int64_t k = job->n_radial * edges, m = N_ANGULAR * edges, q = n_coefficients * edges, f = EDGES * wide, g = n_coefficients * wide;
    REAL **part[16] = {&t->radial, &t->radial_along, &t->radial_out, &t->angular, &t->angular_along, &t->angular_out,
                       &t->coefficient, &t->coefficient_along, &t->slope, &t->slope_along,
                       &t->features, &t->features_along, &t->message, &t->transposed, &t->gradient, &t->moments};
    const int64_t size[16] = {k, k, k, m, m, m, q, q, q, q, f, f, f, wide * edges, g, g};
    int64_t total = 0;
    for (int p = 0; p < 16; p++) total += PADDED(size[p]);
    REAL *memory = NULL;
    if (posix_memalign((void **)&memory, 64, (size_t)total * sizeof(REAL))) return NULL;
    memset(memory, 0, (size_t)total * sizeof(REAL));
    REAL *next = memory;
    for (int p = 0; p < 16; p++) *part[p] = next, next += PADDED(size[p]);
    return memory;
}

/* rows of edges -> columns of edges; columns from n on are zero */
static void NAME(transpose)(const REAL *rows, int64_t n, int64_t n_columns, int64_t row_stride, REAL *out, int64_t width) {
    for (int64_t c = 0; c < n_columns; c++) {
        for (int64_t e = 0; e < n; e++) out[c * width + e] = rows[e * row_stride + c];
        for (int64_t e = n; e < width; e++) out[c * width + e] = 0;
    }
}

static void NAME(transpose_back)(const REAL *table, int64_t n, int64_t n_columns, int64_t width, REAL *rows) {
    for (int64_t e = 0; e < n; e++)
        for (int64_t c = 0; c < n_columns; c++) rows[e * n_columns + c] = table[c * width + e];
}

/* coefficient[q] = R[k] Y[m], or where `along`: R'[k] Y[m] + R[k] Y'[m] */
static void NAME(coefficients)(const Job *job, const TABLES *t, int64_t width, int along) {
    const REAL *r = t->radial, *dr = t->radial_along;
    REAL *out = along ? t->coefficient_along : t->coefficient;
    int64_t first_k = 0, m = 0;
    for (int l = 0; l < 3; l++) {
        for (int c = 0; c < 2 * l + 1; c++)
            for (int64_t k = first_k; k < first_k + job->n_shapes[l]; k++, out += width)
                for (int64_t e = 0; e < width; e += LANES) {
                    const VEC radial = *(const VEC *)((along ? dr : r) + k * width + e);
                    VEC value = radial;
                    if (l > 0) value *= *(const VEC *)(t->angular + (m + c) * width + e);
                    if (l > 0 && along) value += *(const VEC *)(r + k * width + e) * *(const VEC *)(t->angular_along + (m + c) * width + e);
                    *(VEC *)out = value, out += LANES;
                    if (e + LANES >= width) out -= width;
                }
        first_k += job->n_shapes[l];
        m += l > 0 ? 2 * l + 1 : 0;
    }
}

/* radial_out[k] += sum_m Y[m] slope[q], angular_out[m] += sum_k R[k] slope[q] */
static void NAME(contract)(const Job *job, const TABLES *t, const REAL *radial, const REAL *angular, const REAL *slope, int64_t width, int with_plain) {
    int64_t first_k = 0, m = 0;
    for (int l = 0; l < 3; l++) {
        for (int c = 0; c < 2 * l + 1; c++)
            for (int64_t k = first_k; k < first_k + job->n_shapes[l]; k++, slope += width)
                for (int64_t e = 0; e < width; e += LANES) {
                    const VEC s = *(const VEC *)(slope + e);
                    VEC *to_radial = (VEC *)(t->radial_out + k * width + e);
                    if (l == 0) {
                        if (with_plain) *to_radial += s;
                        continue;
                    }
                    *to_radial += s * *(const VEC *)(angular + (m + c) * width + e);
                    *(VEC *)(t->angular_out + (m + c) * width + e) += s * *(const VEC *)(radial + k * width + e);
                }
        first_k += job->n_shapes[l];
        m += l > 0 ? 2 * l + 1 : 0;
    }
}

/* copies between G_l or moments (one row block per degree) and one padded table */
static void NAME(move_moments)(const Job *job, int64_t atom, void *const degrees[3], REAL *table, int to_table) {
    const int64_t n_features = job->n_features, wide = PADDED(n_features);
    for (int l = 0; l < 3; l++) {
        const int64_t n_rows = (2 * l + 1) * job->n_shapes[l];
        REAL *own = (REAL *)degrees[l] + atom * n_rows * n_features;
        for (int64_t row = 0; row < n_rows; row++, table += wide, own += n_features)
            if (to_table) memcpy(table, own, n_features * sizeof(REAL));
            else memcpy(own, table, n_features * sizeof(REAL));
    }
}

/* The same for vectors: R0 x vector gives degree 1, R1 Y1 x vector degrees 0 and 2 by `coupling`. */
static void NAME(move_vector_moments)(const Job *job, int64_t atom, void *const degrees[3], REAL *table, int to_table) {
    const int64_t wide = PADDED(job->n_features), n = job->n_features / 3, k0 = job->n_shapes[0], k1 = job->n_shapes[1];
    REAL *scalar = (REAL *)degrees[0] + atom * k1 * n, *vector = (REAL *)degrees[1] + atom * 3 * k0 * n, *tensor = (REAL *)degrees[2] + atom * 5 * k1 * n;
    for (int64_t k = 0; k < k0; k++, table += wide)
        for (int64_t b = 0; b < 3; b++)
            if (to_table) memcpy(table + b * n, vector + (b * k0 + k) * n, n * sizeof(REAL));
            else memcpy(vector + (b * k0 + k) * n, table + b * n, n * sizeof(REAL));
    for (int64_t k = 0; k < k1; k++) {
        if (to_table)
            for (int m = 0; m < 3; m++) memset(table + (m * k1 + k) * wide, 0, 3 * n * sizeof(REAL));
        for (int p = 0; p < 6; p++) {
            REAL *coupled = p == 0 ? scalar + k * n : tensor + ((p - 1) * k1 + k) * n;
            if (!to_table) memset(coupled, 0, n * sizeof(REAL));
            for (int m = 0; m < 3; m++)
                for (int b = 0; b < 3; b++) {
                    const REAL factor = (REAL)coupling[p][m][b];
                    REAL *outer = table + (m * k1 + k) * wide + b * n;
                    if (factor == 0) continue;
                    if (to_table)
                        for (int64_t f = 0; f < n; f++) outer[f] += factor * coupled[f];
                    else
                        for (int64_t f = 0; f < n; f++) coupled[f] += factor * outer[f];
                }
        }
    }
}

static void NAME(gather)(const Job *job, const REAL *features, int64_t first, int64_t n, REAL *out) {
    const int64_t wide = PADDED(job->n_features);
    for (int64_t e = 0; e < n; e++)
        memcpy(out + e * wide, features + job->neighbor[first + e] * job->n_features, job->n_features * sizeof(REAL));
}

/* slope[q, e] = sum_f G[q, f] h[e, f] */
static void NAME(slopes)(const Job *job, const TABLES *t, const REAL *features, int64_t n, int64_t n_coefficients, int64_t width, REAL *out) {
    const int64_t wide = PADDED(job->n_features);
    NAME(transpose)(features, n, job->n_features, wide, t->transposed, width);
    NAME(multiply)(n_coefficients, width, job->n_features, t->gradient, wide, 1, t->transposed, width, out, width, 0);
}

/* At most EDGES edges of one centre. `messages`: (n_edges, F) to be summed over later, or null: sum into features_out now. */
static void NAME(edges)(const Job *job, const TABLES *t, int64_t first, int64_t n, int64_t n_coefficients, int add, REAL *messages) {
    const int64_t n_features = job->n_features, wide = PADDED(n_features), width = PADDED(n);
    const int turns = job->along && (job->radial_along || job->angular_along), moves = job->along && job->features_along;
    const REAL *change = job->along ? t->coefficient_along : t->coefficient;
    NAME(transpose)((const REAL *)job->radial + first * job->n_radial, n, job->n_radial, job->n_radial, t->radial, width);
    NAME(transpose)((const REAL *)job->angular + first * N_ANGULAR, n, N_ANGULAR, N_ANGULAR, t->angular, width);
    if (turns) { /* one of the two may be absent: zero */
        const int64_t n_r = job->radial_along ? n : 0, n_a = job->angular_along ? n : 0;
        NAME(transpose)((const REAL *)job->radial_along + first * job->n_radial, n_r, job->n_radial, job->n_radial, t->radial_along, width);
        NAME(transpose)((const REAL *)job->angular_along + first * N_ANGULAR, n_a, N_ANGULAR, N_ANGULAR, t->angular_along, width);
        NAME(coefficients)(job, t, width, 1);
    }
    if (!job->along || moves) NAME(coefficients)(job, t, width, 0);
    NAME(gather)(job, job->features, first, n, t->features);
    if (moves) NAME(gather)(job, job->features_along, first, n, t->features_along);
    if (job->moments[0]) {
        if (!job->along || turns) NAME(multiply)(n_coefficients, wide, n, change, width, 1, t->features, wide, t->moments, wide, add);
        if (moves) NAME(multiply)(n_coefficients, wide, n, t->coefficient, width, 1, t->features_along, wide, t->moments, wide, add || turns);
    }
    if (job->features_out && (!job->along || turns)) {
        NAME(multiply)(n, wide, n_coefficients, change, 1, width, t->gradient, wide, t->message, wide, 0);
        for (int64_t e = 0; e < n; e++) {
            if (messages) {
                memcpy(messages + (first + e) * n_features, t->message + e * wide, n_features * sizeof(REAL));
                continue;
            }
            REAL *sum = (REAL *)job->features_out + job->neighbor[first + e] * n_features;
            for (int64_t f = 0; f < n_features; f++) sum[f] += t->message[e * wide + f];
        }
    }
    if (job->radial_out) {
        memset(t->radial_out, 0, job->n_radial * width * sizeof(REAL));
        memset(t->angular_out, 0, N_ANGULAR * width * sizeof(REAL));
        if (!job->along || turns) NAME(slopes)(job, t, t->features, n, n_coefficients, width, t->slope);
        if (!job->along) NAME(contract)(job, t, t->radial, t->angular, t->slope, width, 1);
        if (turns) NAME(contract)(job, t, t->radial_along, t->angular_along, t->slope, width, 0);
        if (moves) {
            NAME(slopes)(job, t, t->features_along, n, n_coefficients, width, t->slope_along);
            NAME(contract)(job, t, t->radial, t->angular, t->slope_along, width, 1);
        }
        NAME(transpose_back)(t->radial_out, n, job->n_radial, width, (REAL *)job->radial_out + first * job->n_radial);
        NAME(transpose_back)(t->angular_out, n, N_ANGULAR, width, (REAL *)job->angular_out + first * N_ANGULAR);
    }
}

static void NAME(atom)(const Job *job, const TABLES *t, int64_t atom, int64_t n_coefficients, REAL *messages) {
    const int64_t begin = job->first_edge[atom], end = job->first_edge[atom + 1];
    void (*move)(const Job *, int64_t, void *const *, REAL *, int) = job->of_vectors ? NAME(move_vector_moments) : NAME(move_moments);
    if (job->gradients[0] && end > begin) move(job, atom, (void *const *)job->gradients, t->gradient, 1);
    if (job->moments[0] && (end == begin || (job->along && !job->radial_along && !job->angular_along && !job->features_along)))
        memset(t->moments, 0, n_coefficients * PADDED(job->n_features) * sizeof(REAL));
    for (int64_t first = begin; first < end; first += EDGES)
        NAME(edges)(job, t, first, smaller(EDGES, end - first), n_coefficients, first > begin, messages);
    if (job->moments[0]) move(job, atom, job->moments, t->moments, 0);
}

/* features_out[j] = sum of the messages of the edges that end in j, in the order of edges as with one thread */
static int NAME(sum_messages)(const Job *job, const REAL *messages) {
    int64_t *first = calloc((size_t)job->n_atoms + 2, sizeof(int64_t)), *order = malloc(((size_t)job->n_edges + 1) * sizeof(int64_t));
    if (first && order) {
        for (int64_t e = 0; e < job->n_edges; e++) first[job->neighbor[e] + 2]++;
        for (int64_t j = 0; j < job->n_atoms; j++) first[j + 2] += first[j + 1];
        for (int64_t e = 0; e < job->n_edges; e++) order[first[job->neighbor[e] + 1]++] = e;
#pragma omp parallel for schedule(static) num_threads((int)job->n_threads)
        for (int64_t j = 0; j < job->n_atoms; j++) {
            REAL *sum = (REAL *)job->features_out + j * job->n_features;
            for (int64_t p = first[j]; p < first[j + 1]; p++)
                for (int64_t f = 0; f < job->n_features; f++) sum[f] += messages[order[p] * job->n_features + f];
        }
    }
    const int failed = !first || !order;
    free(first), free(order);
    return failed;
}

/* 0, or 1 where memory ran out. features_out must be zero at the start. */
int NAME(unipot_neighbor_sums)(const Job *job) {
    const int64_t n_coefficients = job->n_shapes[0] + 3 * job->n_shapes[1] + 5 * job->n_shapes[2];
    int failed = 0;
    REAL *messages = NULL;
    const int later = job->features_out && job->n_threads > 1 && job->n_edges > 0;
    if (later && !(messages = calloc((size_t)job->n_edges * job->n_features, sizeof(REAL)))) return 1;
#pragma omp parallel num_threads((int)job->n_threads) if (job->n_threads > 1) reduction(| : failed)
    {
        TABLES tables;
        REAL *memory = NAME(new_tables)(job, n_coefficients, &tables);
        failed |= !memory;
#pragma omp for schedule(dynamic, 8)
        for (int64_t atom = 0; atom < job->n_atoms; atom++)
            if (memory) NAME(atom)(job, &tables, atom, n_coefficients, messages);
        free(memory);
    }
    if (later && !failed) failed = NAME(sum_messages)(job, messages);
    free(messages);
    return failed;
}

#undef VEC
#undef TABLES
#undef LANES
#undef PADDED
#endif
