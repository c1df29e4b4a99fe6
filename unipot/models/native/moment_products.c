/* Products of moments on atoms, see moment_products.py. x, y, out are (n, 8, V): a vector and the five symmetric traceless
 * components of a matrix in the order of `symmetric_traceless_basis`. The file includes itself once per floating type.
 */
#ifndef REAL

#include <stdint.h>

#define H 0.70710678118654752440 /* 1/sqrt(2) */
#define S 0.40824829046386301637 /* 1/sqrt(6) */

#define REAL float
#define NAME(x) x##_float32
#include __FILE__
#undef REAL
#undef NAME
#define REAL double
#define NAME(x) x##_float64
#include __FILE__

#else

/* out = x o y: vector A b + B a, matrix sym(a b) + (A B + B A) / 2 without its trace */
void NAME(unipot_couple)(int64_t n, int64_t n_channels, int64_t n_threads, const REAL *x_all, const REAL *y_all, REAL *out_all) {
    const REAL h = (REAL)H, s = (REAL)S;
#pragma omp parallel for schedule(static) num_threads((int)n_threads) if (n_threads > 1)
    for (int64_t i = 0; i < n; i++) {
        const REAL *restrict x = x_all + i * 8 * n_channels, *restrict y = y_all + i * 8 * n_channels;
        REAL *restrict out = out_all + i * 8 * n_channels;
        for (int64_t c = 0; c < n_channels; c++) {
#define AT(array, m) array[(m) * n_channels + c]
            const REAL ax = AT(x, 0), ay = AT(x, 1), az = AT(x, 2), bx = AT(y, 0), by = AT(y, 1), bz = AT(y, 2);
            const REAL Axy = h * AT(x, 3), Ayz = h * AT(x, 4), Azx = h * AT(x, 5), Bxy = h * AT(y, 3), Byz = h * AT(y, 4), Bzx = h * AT(y, 5);
            const REAL Axx = h * AT(x, 6) - s * AT(x, 7), Ayy = -h * AT(x, 6) - s * AT(x, 7), Azz = 2 * s * AT(x, 7);
            const REAL Bxx = h * AT(y, 6) - s * AT(y, 7), Byy = -h * AT(y, 6) - s * AT(y, 7), Bzz = 2 * s * AT(y, 7);
            const REAL xx = ax * bx + Axx * Bxx + Axy * Bxy + Azx * Bzx;
            const REAL yy = ay * by + Axy * Bxy + Ayy * Byy + Ayz * Byz;
            const REAL zz = az * bz + Azx * Bzx + Ayz * Byz + Azz * Bzz;
            const REAL xy = ax * by + ay * bx + Axx * Bxy + Axy * Byy + Azx * Byz + Bxx * Axy + Bxy * Ayy + Bzx * Ayz;
            const REAL yz = ay * bz + az * by + Axy * Bzx + Ayy * Byz + Ayz * Bzz + Bxy * Azx + Byy * Ayz + Byz * Azz;
            const REAL zx = az * bx + ax * bz + Axx * Bzx + Axy * Byz + Azx * Bzz + Bxx * Azx + Bxy * Ayz + Bzx * Azz;
            AT(out, 0) = Axx * bx + Axy * by + Azx * bz + Bxx * ax + Bxy * ay + Bzx * az;
            AT(out, 1) = Axy * bx + Ayy * by + Ayz * bz + Bxy * ax + Byy * ay + Byz * az;
            AT(out, 2) = Azx * bx + Ayz * by + Azz * bz + Bzx * ax + Byz * ay + Bzz * az;
            AT(out, 3) = h * xy, AT(out, 4) = h * yz, AT(out, 5) = h * zx; /* xy, yz, zx are twice the element */
            AT(out, 6) = h * (xx - yy), AT(out, 7) = s * (2 * zz - xx - yy);
        }
    }
}

/* out (n, 2, V): scalar products of the vectors, and of the matrices */
void NAME(unipot_inner)(int64_t n, int64_t n_channels, int64_t n_threads, const REAL *x_all, const REAL *y_all, REAL *out_all) {
#pragma omp parallel for schedule(static) num_threads((int)n_threads) if (n_threads > 1)
    for (int64_t i = 0; i < n; i++) {
        const REAL *restrict x = x_all + i * 8 * n_channels, *restrict y = y_all + i * 8 * n_channels;
        REAL *restrict out = out_all + i * 2 * n_channels;
        for (int64_t c = 0; c < n_channels; c++) {
            AT(out, 0) = AT(x, 0) * AT(y, 0) + AT(x, 1) * AT(y, 1) + AT(x, 2) * AT(y, 2);
            AT(out, 1) = AT(x, 3) * AT(y, 3) + AT(x, 4) * AT(y, 4) + AT(x, 5) * AT(y, 5) + AT(x, 6) * AT(y, 6) + AT(x, 7) * AT(y, 7);
        }
    }
}

/* out (n, 8, V): the vector of y times factor 0, its matrix times factor 1; x is (n, 2, V) */
void NAME(unipot_scale)(int64_t n, int64_t n_channels, int64_t n_threads, const REAL *x_all, const REAL *y_all, REAL *out_all) {
#pragma omp parallel for schedule(static) num_threads((int)n_threads) if (n_threads > 1)
    for (int64_t i = 0; i < n; i++) {
        const REAL *restrict x = x_all + i * 2 * n_channels, *restrict y = y_all + i * 8 * n_channels;
        REAL *restrict out = out_all + i * 8 * n_channels;
        for (int64_t m = 0; m < 8; m++)
            for (int64_t c = 0; c < n_channels; c++) AT(out, m) = AT(x, m < 3 ? 0 : 1) * AT(y, m);
    }
#undef AT
}

#endif
