/* Invariants and vectors of the moments of an atom, and their derivatives; see moment_invariants.py, which is the only caller.
 *
 * Moments x are x0 (C), vectors a (3, V), and symmetric traceless matrices A (5, V) in the order of `symmetric_traceless_basis`.
 * They are shrunk, y = r x with r = 1 / sqrt(1 + <x, x>), where <x, z> is x0 z0 / C + (a b + A B) / V summed over channels, and
 * the products of y are
 *
 *     invariants (C + 4V): y0, |a|^2, |A|^2, a A a, tr A^3 / 3         vectors (3, 2V): a, A a
 *
 * The file includes itself once per floating type. Atoms do not meet, so that nothing depends on the number of threads.
 */
#ifndef REAL

#include <math.h>
#include <stdint.h>

#define H 0.70710678118654752440 /* 1/sqrt(2) */
#define S 0.40824829046386301637 /* 1/sqrt(6) */
#define INLINE static inline __attribute__((always_inline))
#define DO(text) _Pragma(#text)
#define SUM_UP(...) DO(omp simd reduction(+ : __VA_ARGS__))

#define REAL float
#define NAME(x) x##_float32
#define SQUARE_ROOT sqrtf
#include __FILE__
#undef REAL
#undef NAME
#undef SQUARE_ROOT
#define REAL double
#define NAME(x) x##_float64
#define SQUARE_ROOT sqrt
#include __FILE__

#else

#define VECTOR NAME(vector)
#define MATRIX NAME(matrix)
#define MOMENTS NAME(moments)
#define PRODUCTS NAME(products)
#define HALF ((REAL)0.5)

/* all of one channel; cotangents of products are products, too */
typedef struct { REAL x, y, z; } VECTOR;
typedef struct { REAL xx, yy, zz, xy, yz, zx; } MATRIX;
typedef struct { VECTOR a; MATRIX A; } MOMENTS;
typedef struct { REAL aa, AA, aAa, AAA; VECTOR a, Aa; } PRODUCTS;

INLINE VECTOR NAME(plus)(VECTOR a, REAL s, VECTOR b) { return (VECTOR){a.x + s * b.x, a.y + s * b.y, a.z + s * b.z}; }
INLINE MATRIX NAME(plus_matrix)(MATRIX A, REAL s, MATRIX B) {
    return (MATRIX){A.xx + s * B.xx, A.yy + s * B.yy, A.zz + s * B.zz, A.xy + s * B.xy, A.yz + s * B.yz, A.zx + s * B.zx};
}
INLINE MOMENTS NAME(plus_moments)(MOMENTS x, REAL s, MOMENTS y) {
    return (MOMENTS){NAME(plus)(x.a, s, y.a), NAME(plus_matrix)(x.A, s, y.A)};
}
INLINE VECTOR NAME(times)(REAL s, VECTOR a) { return (VECTOR){s * a.x, s * a.y, s * a.z}; }
INLINE MATRIX NAME(times_matrix)(REAL s, MATRIX A) { return (MATRIX){s * A.xx, s * A.yy, s * A.zz, s * A.xy, s * A.yz, s * A.zx}; }
INLINE MOMENTS NAME(times_moments)(REAL s, MOMENTS x) { return (MOMENTS){NAME(times)(s, x.a), NAME(times_matrix)(s, x.A)}; }
INLINE REAL NAME(dot)(VECTOR a, VECTOR b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
INLINE REAL NAME(trace)(MATRIX A, MATRIX B) {
    return A.xx * B.xx + A.yy * B.yy + A.zz * B.zz + 2 * (A.xy * B.xy + A.yz * B.yz + A.zx * B.zx);
}
INLINE REAL NAME(inner)(MOMENTS x, MOMENTS y) { return NAME(dot)(x.a, y.a) + NAME(trace)(x.A, y.A); }
INLINE VECTOR NAME(turn)(MATRIX A, VECTOR a) {
    return (VECTOR){A.xx * a.x + A.xy * a.y + A.zx * a.z, A.xy * a.x + A.yy * a.y + A.yz * a.z, A.zx * a.x + A.yz * a.y + A.zz * a.z};
}
/* (a b + b a) / 2 */
INLINE MATRIX NAME(dyad)(VECTOR a, VECTOR b) {
    return (MATRIX){a.x * b.x, a.y * b.y, a.z * b.z,
                    HALF * (a.x * b.y + a.y * b.x), HALF * (a.y * b.z + a.z * b.y), HALF * (a.z * b.x + a.x * b.z)};
}
/* (A B + B A) / 2 */
INLINE MATRIX NAME(product)(MATRIX A, MATRIX B) {
    return (MATRIX){A.xx * B.xx + A.xy * B.xy + A.zx * B.zx, A.xy * B.xy + A.yy * B.yy + A.yz * B.yz, A.zx * B.zx + A.yz * B.yz + A.zz * B.zz,
                    HALF * (A.xx * B.xy + A.xy * B.yy + A.zx * B.yz + B.xx * A.xy + B.xy * A.yy + B.zx * A.yz),
                    HALF * (A.xy * B.zx + A.yy * B.yz + A.yz * B.zz + B.xy * A.zx + B.yy * A.yz + B.yz * A.zz),
                    HALF * (A.xx * B.zx + A.xy * B.yz + A.zx * B.zz + B.xx * A.zx + B.xy * A.yz + B.zx * A.zz)};
}

INLINE PRODUCTS NAME(products_of)(MOMENTS y) {
    const VECTOR turned = NAME(turn)(y.A, y.a);
    const REAL cube = NAME(trace)(y.A, NAME(product)(y.A, y.A));
    return (PRODUCTS){NAME(dot)(y.a, y.a), NAME(trace)(y.A, y.A), NAME(dot)(y.a, turned), cube / 3, y.a, turned};
}
/* of the products contracted with g, with respect to y; the matrix may have a trace, which means nothing */
INLINE MOMENTS NAME(gradient)(MOMENTS y, PRODUCTS g) {
    const VECTOR b = NAME(plus)(g.Aa, g.aAa, y.a);
    const VECTOR a = NAME(plus)(NAME(turn)(y.A, NAME(plus)(b, g.aAa, y.a)), 2 * g.aa, y.a);
    const MATRIX A = NAME(plus_matrix)(NAME(dyad)(y.a, b), g.AAA, NAME(product)(y.A, y.A));
    return (MOMENTS){NAME(plus)(a, 1, g.a), NAME(plus_matrix)(A, 2 * g.AA, y.A)};
}
/* of the products along z */
INLINE PRODUCTS NAME(change)(MOMENTS y, MOMENTS z) {
    const VECTOR here = NAME(turn)(y.A, z.a), there = NAME(turn)(z.A, y.a);
    return (PRODUCTS){2 * NAME(dot)(y.a, z.a), 2 * NAME(trace)(y.A, z.A), NAME(dot)(y.a, NAME(plus)(there, 2, here)),
                      NAME(trace)(NAME(product)(y.A, y.A), z.A), z.a, NAME(plus)(here, 1, there)};
}
/* of the gradient along z */
INLINE MOMENTS NAME(change_of_gradient)(MOMENTS y, PRODUCTS g, MOMENTS z) {
    const VECTOR b = NAME(plus)(g.Aa, g.aAa, y.a);
    const VECTOR turned = NAME(plus)(NAME(turn)(z.A, NAME(plus)(b, g.aAa, y.a)), 2 * g.aAa, NAME(turn)(y.A, z.a));
    const MATRIX A = NAME(plus_matrix)(NAME(dyad)(z.a, NAME(plus)(b, g.aAa, y.a)), 2 * g.AAA, NAME(product)(y.A, z.A));
    return (MOMENTS){NAME(plus)(turned, 2 * g.aa, z.a), NAME(plus_matrix)(A, 2 * g.AA, z.A)};
}

/* one channel out of (components, width) arrays */
#define AT(array, m) (array)[(m) * V]
INLINE MOMENTS NAME(load)(const REAL *a, const REAL *A, int64_t V) {
    const REAL h = (REAL)H, s = (REAL)S;
    const REAL planar = h * AT(A, 3), axial = s * AT(A, 4);
    return (MOMENTS){{AT(a, 0), AT(a, 1), AT(a, 2)},
                     {planar - axial, -planar - axial, 2 * axial, h * AT(A, 0), h * AT(A, 1), h * AT(A, 2)}};
}
INLINE void NAME(store)(MOMENTS x, REAL *a, REAL *A, int64_t V) {
    const REAL h = (REAL)H, s = (REAL)S;
    AT(a, 0) = x.a.x, AT(a, 1) = x.a.y, AT(a, 2) = x.a.z;
    AT(A, 0) = 2 * h * x.A.xy, AT(A, 1) = 2 * h * x.A.yz, AT(A, 2) = 2 * h * x.A.zx;
    AT(A, 3) = h * (x.A.xx - x.A.yy), AT(A, 4) = s * (2 * x.A.zz - x.A.xx - x.A.yy);
}
INLINE PRODUCTS NAME(load_products)(const REAL *invariants, const REAL *vectors, int64_t V) {
    return (PRODUCTS){AT(invariants, 0), AT(invariants, 1), AT(invariants, 2), AT(invariants, 3),
                      {AT(vectors, 0), AT(vectors, 2), AT(vectors, 4)}, {AT(vectors, 1), AT(vectors, 3), AT(vectors, 5)}};
}
INLINE void NAME(store_products)(PRODUCTS p, REAL *invariants, REAL *vectors, int64_t V) {
    AT(invariants, 0) = p.aa, AT(invariants, 1) = p.AA, AT(invariants, 2) = p.aAa, AT(invariants, 3) = p.AAA;
    AT(vectors, 0) = p.a.x, AT(vectors, 2) = p.a.y, AT(vectors, 4) = p.a.z;
    AT(vectors, 1) = p.Aa.x, AT(vectors, 3) = p.Aa.y, AT(vectors, 5) = p.Aa.z;
}
#undef AT

INLINE REAL NAME(sum_of_products)(int64_t length, const REAL *x, const REAL *y) {
    REAL total = 0;
    SUM_UP(total)
    for (int64_t k = 0; k < length; k++) total += x[k] * y[k];
    return total;
}
INLINE REAL NAME(weighted)(int64_t C, int64_t V, const REAL *x0, const REAL *x1, const REAL *x2, const REAL *z0, const REAL *z1, const REAL *z2) {
    return NAME(sum_of_products)(C, x0, z0) / C + (NAME(sum_of_products)(3 * V, x1, z1) + NAME(sum_of_products)(5 * V, x2, z2)) / V;
}
/* out -= s x */
INLINE void NAME(subtract)(int64_t length, REAL s, const REAL *restrict x, REAL *restrict out) {
    for (int64_t k = 0; k < length; k++) out[k] -= s * x[k];
}
INLINE void NAME(subtract_moments)(
    int64_t C, int64_t V, REAL s, const REAL *x0, const REAL *x1, const REAL *x2, REAL *out0, REAL *out1, REAL *out2) {
    NAME(subtract)(C, s / C, x0, out0);
    NAME(subtract)(3 * V, s / V, x1, out1);
    NAME(subtract)(5 * V, s / V, x2, out2);
}

#define ATOMS DO(omp parallel for schedule(static) num_threads((int)n_threads) if (n_threads > 1)) for (int64_t i = 0; i < n; i++)
/* the parts of atom i */
#define MINE_OF(type, p) type *p##0 = p##0_all + i * C, *p##1 = p##1_all + i * 3 * V, *p##2 = p##2_all + i * 5 * V
#define MINE_OF_PRODUCTS(type, p) type *p##_invariants = p##_invariants_all + i * (C + 4 * V), *p##_vectors = p##_vectors_all + i * 6 * V

void NAME(unipot_moment_invariants)(
    int64_t n, int64_t C, int64_t V, int64_t n_threads, const REAL *x0_all, const REAL *x1_all, const REAL *x2_all,
    REAL *restrict out_invariants_all, REAL *restrict out_vectors_all) {
    ATOMS {
        MINE_OF(const REAL, x);
        MINE_OF_PRODUCTS(REAL, out);
        const REAL r = 1 / SQUARE_ROOT(1 + NAME(weighted)(C, V, x0, x1, x2, x0, x1, x2));
        for (int64_t c = 0; c < C; c++) out_invariants[c] = r * x0[c];
        DO(omp simd)
        for (int64_t c = 0; c < V; c++) {
            const MOMENTS y = NAME(times_moments)(r, NAME(load)(x1 + c, x2 + c, V));
            NAME(store_products)(NAME(products_of)(y), out_invariants + C + c, out_vectors + c, V);
        }
    }
}

/* of invariants and vectors contracted with g, with respect to x */
void NAME(unipot_moment_invariant_gradients)(
    int64_t n, int64_t C, int64_t V, int64_t n_threads, const REAL *x0_all, const REAL *x1_all, const REAL *x2_all,
    const REAL *g_invariants_all, const REAL *g_vectors_all, REAL *restrict out0_all, REAL *restrict out1_all, REAL *restrict out2_all) {
    ATOMS {
        MINE_OF(const REAL, x);
        MINE_OF_PRODUCTS(const REAL, g);
        MINE_OF(REAL, out);
        const REAL r = 1 / SQUARE_ROOT(1 + NAME(weighted)(C, V, x0, x1, x2, x0, x1, x2));
        REAL along = NAME(sum_of_products)(C, g_invariants, x0); /* gradient by y, times x */
        for (int64_t c = 0; c < C; c++) out0[c] = r * g_invariants[c];
        SUM_UP(along)
        for (int64_t c = 0; c < V; c++) {
            const MOMENTS x = NAME(load)(x1 + c, x2 + c, V);
            const MOMENTS by_y = NAME(gradient)(NAME(times_moments)(r, x), NAME(load_products)(g_invariants + C + c, g_vectors + c, V));
            along += NAME(inner)(by_y, x);
            NAME(store)(NAME(times_moments)(r, by_y), out1 + c, out2 + c, V);
        }
        NAME(subtract_moments)(C, V, r * r * r * along, x0, x1, x2, out0, out1, out2); /* dr = -r^3 <x, dx> */
    }
}

/* of both functions above along z */
void NAME(unipot_moment_invariant_changes)(
    int64_t n, int64_t C, int64_t V, int64_t n_threads, const REAL *x0_all, const REAL *x1_all, const REAL *x2_all,
    const REAL *g_invariants_all, const REAL *g_vectors_all, const REAL *z0_all, const REAL *z1_all, const REAL *z2_all,
    REAL *restrict out0_all, REAL *restrict out1_all, REAL *restrict out2_all, REAL *restrict out_invariants_all, REAL *restrict out_vectors_all) {
    ATOMS {
        MINE_OF(const REAL, x);
        MINE_OF_PRODUCTS(const REAL, g);
        MINE_OF(const REAL, z);
        MINE_OF(REAL, out);
        MINE_OF_PRODUCTS(REAL, out);
        const REAL r = 1 / SQUARE_ROOT(1 + NAME(weighted)(C, V, x0, x1, x2, x0, x1, x2));
        const REAL r_along = -r * r * r * NAME(weighted)(C, V, x0, x1, x2, z0, z1, z2);
        REAL along = NAME(sum_of_products)(C, g_invariants, x0), along_along = NAME(sum_of_products)(C, g_invariants, z0);
        for (int64_t c = 0; c < C; c++) {
            out0[c] = r_along * g_invariants[c];
            out_invariants[c] = r * z0[c] + r_along * x0[c];
        }
        SUM_UP(along, along_along)
        for (int64_t c = 0; c < V; c++) {
            const MOMENTS x = NAME(load)(x1 + c, x2 + c, V), z = NAME(load)(z1 + c, z2 + c, V);
            const MOMENTS y = NAME(times_moments)(r, x), y_along = NAME(plus_moments)(NAME(times_moments)(r, z), r_along, x);
            const PRODUCTS g = NAME(load_products)(g_invariants + C + c, g_vectors + c, V);
            const MOMENTS by_y = NAME(gradient)(y, g), by_y_along = NAME(change_of_gradient)(y, g, y_along);
            along += NAME(inner)(by_y, x);
            along_along += NAME(inner)(by_y, z) + NAME(inner)(by_y_along, x);
            NAME(store)(NAME(plus_moments)(NAME(times_moments)(r, by_y_along), r_along, by_y), out1 + c, out2 + c, V);
            NAME(store_products)(NAME(change)(y, y_along), out_invariants + C + c, out_vectors + c, V);
        }
        const REAL of_x = 3 * r * r * r_along * along + r * r * r * along_along, of_z = r * r * r * along;
        NAME(subtract_moments)(C, V, of_x, x0, x1, x2, out0, out1, out2);
        NAME(subtract_moments)(C, V, of_z, z0, z1, z2, out0, out1, out2);
    }
}
#undef ATOMS
#undef MINE_OF
#undef MINE_OF_PRODUCTS
#undef VECTOR
#undef MATRIX
#undef MOMENTS
#undef PRODUCTS
#undef HALF

#endif
