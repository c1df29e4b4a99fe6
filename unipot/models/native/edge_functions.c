/* Functions of edge vectors and their derivatives, see edge_functions.py, which is the only caller.
 *
 * With r = |v|, u = v / r and x = r / cutoff:
 *
 *     basis (n_basis): sin(n pi x) / x, n = 1, 2, ...     envelope: 1 - 35x^4 + 84x^5 - 70x^6 + 20x^7, 0 from x = 1 on
 *     angular (8): u, and sqrt(3/2) (u u - 1/3) in the order of `symmetric_traceless_basis`
 *
 * Numbers are computed in double whatever their type in memory, BLOCK edges at a time with edges in the lanes of vectors. sin and
 * cos of n pi x come from those of pi x by rotations. The file includes itself once per floating type. Edges do not meet, so that
 * nothing depends on the number of threads.
 */
#ifndef REAL

#include <math.h>
#include <stdint.h>

#define BLOCK 64
#define INLINE static inline __attribute__((always_inline))
#define DO(text) _Pragma(#text)
#define EDGES DO(omp simd) for (int64_t l = 0; l < m; l++)
#define PI 3.14159265358979323846
#define ROOT3 1.73205080756887729353

/* of one block */
typedef struct {
    double u[3][BLOCK], inverse[BLOCK], x[BLOCK]; /* 1/r */
    double sine1[BLOCK], cosine1[BLOCK], sine[BLOCK], cosine[BLOCK];
} Edges;

/* sin and cos of pi x, by their series at the distance to the nearest whole number */
INLINE void sine_and_cosine(double x, double *sine, double *cosine) {
    const double whole = rint(x), t = PI * (x - whole), z = t * t;
    const double half = 0.5 * whole, sign = half == rint(half) ? 1.0 : -1.0;
    double s = 1.0, c = 1.0;
#define TERM(k) s = 1.0 - z * (1.0 / (k * (k + 1.0))) * s, c = 1.0 - z * (1.0 / (k * (k - 1.0))) * c
    TERM(22), TERM(20), TERM(18), TERM(16), TERM(14), TERM(12), TERM(10), TERM(8), TERM(6), TERM(4), TERM(2);
#undef TERM
    *sine = sign * t * s;
    *cosine = sign * c;
}
INLINE double envelope(double x) { return x < 1 ? 1 + x * x * x * x * (-35 + x * (84 + x * (-70 + 20 * x))) : 0; }
INLINE double envelope_slope(double x) { return x < 1 ? -140 * x * x * x * (1 - x) * (1 - x) * (1 - x) : 0; }
INLINE double envelope_curvature(double x) { return x < 1 ? -420 * x * x * (1 - x) * (1 - x) * (1 - 2 * x) : 0; }

INLINE void rotate(Edges *edges, int64_t m) {
    EDGES {
        const double s = edges->sine[l], c = edges->cosine[l];
        edges->sine[l] = s * edges->cosine1[l] + c * edges->sine1[l];
        edges->cosine[l] = c * edges->cosine1[l] - s * edges->sine1[l];
    }
}

#define REAL float
#define NAME(x) x##_float32
#include __FILE__
#undef REAL
#undef NAME
#define REAL double
#define NAME(x) x##_float64
#include __FILE__

#else

INLINE void NAME(load)(const REAL *vectors, double cutoff, int64_t m, Edges *edges) {
    EDGES {
        const double vx = vectors[3 * l], vy = vectors[3 * l + 1], vz = vectors[3 * l + 2];
        const double r = sqrt(vx * vx + vy * vy + vz * vz);
        edges->inverse[l] = 1 / r;
        edges->x[l] = r / cutoff;
        edges->u[0][l] = vx / r, edges->u[1][l] = vy / r, edges->u[2][l] = vz / r;
        sine_and_cosine(r / cutoff, &edges->sine1[l], &edges->cosine1[l]);
        edges->sine[l] = edges->sine1[l], edges->cosine[l] = edges->cosine1[l];
    }
}

/* (d angular / du at u) contracted with g, where d / du is linear in u but for the first three */
INLINE void NAME(pull)(const REAL *g, double u0, double u1, double u2, double *h0, double *h1, double *h2) {
    *h0 = ROOT3 * (g[3] * u1 + g[5] * u2 + g[6] * u0);
    *h1 = ROOT3 * (g[3] * u0 + g[4] * u2 - g[6] * u1);
    *h2 = ROOT3 * (g[4] * u1 + g[5] * u0) + 3 * g[7] * u2;
}

#define BLOCKS DO(omp parallel for schedule(static) num_threads((int)n_threads) if (n_threads > 1)) \
    for (int64_t first = 0; first < n; first += BLOCK)
#define MINE const int64_t m = n - first < BLOCK ? n - first : BLOCK; Edges edges; NAME(load)(vectors + 3 * first, cutoff, m, &edges)

void NAME(unipot_edge_functions)(
    int64_t n, int64_t n_basis, double cutoff, int64_t n_threads, const REAL *restrict vectors, REAL *restrict basis,
    REAL *restrict weight, REAL *restrict angular) {
    BLOCKS {
        MINE;
        for (int64_t k = 0; k < n_basis; k++) {
            REAL *column = basis + first * n_basis + k;
            EDGES column[l * n_basis] = (REAL)(edges.sine[l] / edges.x[l]);
            rotate(&edges, m);
        }
        EDGES {
            const double u0 = edges.u[0][l], u1 = edges.u[1][l], u2 = edges.u[2][l];
            REAL *y = angular + 8 * (first + l);
            weight[first + l] = (REAL)envelope(edges.x[l]);
            y[0] = (REAL)u0, y[1] = (REAL)u1, y[2] = (REAL)u2;
            y[3] = (REAL)(ROOT3 * u0 * u1), y[4] = (REAL)(ROOT3 * u1 * u2), y[5] = (REAL)(ROOT3 * u2 * u0);
            y[6] = (REAL)(0.5 * ROOT3 * (u0 * u0 - u1 * u1)), y[7] = (REAL)(1.5 * u2 * u2 - 0.5);
        }
    }
}

/* of basis, envelope and angular functions contracted with g, with respect to the vectors */
void NAME(unipot_edge_gradients)(
    int64_t n, int64_t n_basis, double cutoff, int64_t n_threads, const REAL *restrict vectors, const REAL *restrict g_basis,
    const REAL *restrict g_weight, const REAL *restrict g_angular, REAL *restrict out) {
    BLOCKS {
        MINE;
        double radial[BLOCK]; /* slope along x */
        EDGES radial[l] = g_weight[first + l] * envelope_slope(edges.x[l]);
        for (int64_t k = 0; k < n_basis; k++) {
            const REAL *g = g_basis + first * n_basis + k;
            EDGES {
                const double value = edges.sine[l] / edges.x[l];
                radial[l] += g[l * n_basis] * ((double)(k + 1) * PI * edges.cosine[l] - value) / edges.x[l];
            }
            rotate(&edges, m);
        }
        EDGES {
            const REAL *g = g_angular + 8 * (first + l);
            const double u0 = edges.u[0][l], u1 = edges.u[1][l], u2 = edges.u[2][l], inverse = edges.inverse[l];
            double h0, h1, h2;
            NAME(pull)(g, u0, u1, u2, &h0, &h1, &h2);
            h0 += g[0], h1 += g[1], h2 += g[2];
            const double along = radial[l] / cutoff - inverse * (h0 * u0 + h1 * u1 + h2 * u2);
            REAL *v = out + 3 * (first + l);
            v[0] = (REAL)(along * u0 + inverse * h0), v[1] = (REAL)(along * u1 + inverse * h1), v[2] = (REAL)(along * u2 + inverse * h2);
        }
    }
}

/* of both functions above along z (n, 3) */
void NAME(unipot_edge_changes)(
    int64_t n, int64_t n_basis, double cutoff, int64_t n_threads, const REAL *restrict vectors, const REAL *restrict g_basis,
    const REAL *restrict g_weight, const REAL *restrict g_angular, const REAL *restrict along, REAL *restrict out, REAL *restrict basis,
    REAL *restrict weight, REAL *restrict angular) {
    BLOCKS {
        MINE;
        double slope[BLOCK], curvature[BLOCK], x_along[BLOCK]; /* of what is contracted with g, along x */
        EDGES {
            const REAL *z = along + 3 * (first + l);
            x_along[l] = (edges.u[0][l] * z[0] + edges.u[1][l] * z[1] + edges.u[2][l] * z[2]) / cutoff;
            slope[l] = g_weight[first + l] * envelope_slope(edges.x[l]);
            curvature[l] = g_weight[first + l] * envelope_curvature(edges.x[l]);
            weight[first + l] = (REAL)(envelope_slope(edges.x[l]) * x_along[l]);
        }
        for (int64_t k = 0; k < n_basis; k++) {
            const REAL *g = g_basis + first * n_basis + k;
            REAL *column = basis + first * n_basis + k;
            const double p = (double)(k + 1) * PI;
            EDGES {
                const double first_slope = (p * edges.cosine[l] - edges.sine[l] / edges.x[l]) / edges.x[l];
                slope[l] += g[l * n_basis] * first_slope;
                curvature[l] += g[l * n_basis] * (-p * p * edges.sine[l] - 2 * first_slope) / edges.x[l];
                column[l * n_basis] = (REAL)(first_slope * x_along[l]);
            }
            rotate(&edges, m);
        }
        EDGES {
            const REAL *g = g_angular + 8 * (first + l), *z = along + 3 * (first + l);
            const double u0 = edges.u[0][l], u1 = edges.u[1][l], u2 = edges.u[2][l], inverse = edges.inverse[l];
            const double r_along = x_along[l] * cutoff;
            const double t0 = inverse * (z[0] - r_along * u0), t1 = inverse * (z[1] - r_along * u1), t2 = inverse * (z[2] - r_along * u2);
            REAL *y = angular + 8 * (first + l), *v = out + 3 * (first + l);
            y[0] = (REAL)t0, y[1] = (REAL)t1, y[2] = (REAL)t2;
            y[3] = (REAL)(ROOT3 * (t0 * u1 + u0 * t1)), y[4] = (REAL)(ROOT3 * (t1 * u2 + u1 * t2)), y[5] = (REAL)(ROOT3 * (t2 * u0 + u2 * t0));
            y[6] = (REAL)(ROOT3 * (u0 * t0 - u1 * t1)), y[7] = (REAL)(3 * u2 * t2);
            double h0, h1, h2, d0, d1, d2; /* gradient by u, and its change */
            NAME(pull)(g, u0, u1, u2, &h0, &h1, &h2);
            NAME(pull)(g, t0, t1, t2, &d0, &d1, &d2);
            h0 += g[0], h1 += g[1], h2 += g[2];
            const double hu = h0 * u0 + h1 * u1 + h2 * u2, hu_along = d0 * u0 + d1 * u1 + d2 * u2 + h0 * t0 + h1 * t1 + h2 * t2;
            const double of_u = curvature[l] * x_along[l] / cutoff - inverse * hu_along + inverse * inverse * r_along * hu;
            const double of_t = slope[l] / cutoff - inverse * hu, of_h = -inverse * inverse * r_along;
            v[0] = (REAL)(of_u * u0 + of_t * t0 + inverse * d0 + of_h * h0);
            v[1] = (REAL)(of_u * u1 + of_t * t1 + inverse * d1 + of_h * h1);
            v[2] = (REAL)(of_u * u2 + of_t * t2 + inverse * d2 + of_h * h2);
        }
    }
}
#undef BLOCKS
#undef MINE

#endif
