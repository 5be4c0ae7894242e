// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// Numbers and vectors: what the CPU kernels share.
//
// Loops that GCC and Clang vectorise, and their vector types where they do not do it well. Not for -ffast-math, under
// which the exponential and the roundings below would come out wrong.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

#include "structs.h"

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

namespace {

enum DType : int64_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// What every function that Python calls does its work in. Returns null, or what the exception says that ended it: one
// that left a function of C would end the process. `at::parallel_for` hands on what is thrown in its threads. Without
// memory the message is a constant: a thread's own variables get theirs when they are first used, or end the process.
template <typename Work>
const char* guarded(const Work& work) {
  try {
    work();
  } catch (const std::bad_alloc&) {
    return "std::bad_alloc";
  } catch (const std::exception& error) {
    static thread_local char message[512];
    std::snprintf(message, sizeof message, "%s", error.what());
    return message;
  }
  return nullptr;
}

template <typename To, typename From>
inline To bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "");
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

inline float from_bfloat16(uint16_t x) { return bits<float>(uint32_t(x) << 16); }

inline uint16_t to_bfloat16(float x) {
  const uint32_t u = bits<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  return uint16_t(x != x ? 0x7fc0 : rounded);
}

inline float from_float16(uint16_t x) {
  const uint32_t magnitude = uint32_t(x & 0x7fff) << 13;
  const uint32_t finite = bits<uint32_t>(bits<float>(magnitude) * 0x1p112f);  // also right for subnormals
  const uint32_t special = magnitude | 0x7f800000;                            // infinity, NaN
  return bits<float>((magnitude >= 0x0f800000 ? special : finite) | uint32_t(x & 0x8000) << 16);
}

// Rounds to nearest even by adding a power of two that pushes the surplus bits out.
inline uint16_t to_float16(float x) {
  const uint32_t u = bits<uint32_t>(x), sign = (u >> 16) & 0x8000;
  const float magnitude = bits<float>(u & 0x7fffffff);
  const float scaled = (magnitude * 0x1p112f) * 0x1p-110f;  // overflows to infinity where float16 does
  const uint32_t exponent = std::max(u << 1 & 0xff000000, uint32_t(0x71000000));
  const uint32_t rounded = bits<uint32_t>(bits<float>((exponent >> 1) + 0x07800000) + scaled);
  const uint32_t finite = ((rounded >> 13) & 0x7c00) + (rounded & 0x0fff);
  return uint16_t(sign | (x != x ? 0x7e00 : finite));
}

// exp to about 1e-7 relative: 2^n times a polynomial of the remainder. Zero below the smallest normal number.
inline float exp_float(float x) {
  float bounded = x < -87.0f ? -87.0f : x;  // comparisons that let NaN through
  bounded = bounded > 88.0f ? 88.0f : bounded;
  const float shifted = bounded * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer in the low bits
  const float n = shifted - 12582912.0f;
  const float f = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;  // log 2 in two parts
  float p = 1.9875691500e-4f;  // coefficients of Cephes' expf
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  const float power = bits<float>((bits<uint32_t>(shifted) << 23) + 0x3f800000);
  return x < -87.0f ? 0.0f : p * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exp_float(-x)); }
inline float tanh_float(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

// Sixteen lanes, which the compiler maps to whatever vectors there are. The hot loops are written with them because
// GCC otherwise keeps their sums in memory and adds up lanes one by one.
constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(4 * kLanes), may_alias));
typedef float Lanes8 __attribute__((vector_size(32)));
typedef float Lanes4 __attribute__((vector_size(16)));

inline Lanes& lanes(float* x, int index) { return reinterpret_cast<Lanes*>(x)[index]; }
inline const Lanes& lanes(const float* x, int index) { return reinterpret_cast<const Lanes*>(x)[index]; }

// The same at any address.
typedef float LooseLanes __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Lanes load_lanes(const float* x) { return *reinterpret_cast<const LooseLanes*>(x); }
inline void store_lanes(float* out, const Lanes& x) { *reinterpret_cast<LooseLanes*>(out) = x; }

inline float sum(const Lanes& x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(__m512(x));  // GCC would go through memory
#else
  Lanes8 low, high;
  std::memcpy(&low, &x, sizeof low);
  std::memcpy(&high, reinterpret_cast<const char*>(&x) + sizeof low, sizeof high);
  low += high;
  Lanes4 first, second;
  std::memcpy(&first, &low, sizeof first);
  std::memcpy(&second, reinterpret_cast<const char*>(&low) + sizeof first, sizeof second);
  first += second;
  return (first[0] + first[2]) + (first[1] + first[3]);
#endif
}

// Over n numbers, a multiple of kLanes.
inline float dot(const float* x, const float* y, int64_t n) {
  Lanes total = {};
  for (int64_t i = 0; i < n; i += kLanes) total += load_lanes(x + i) * load_lanes(y + i);
  return sum(total);
}

inline float mean(const float* x, int64_t n) {
  Lanes total = {};
  for (int64_t i = 0; i < n; i += kLanes) total += load_lanes(x + i);
  return sum(total) / float(n);
}

// out = (x - mean) / sqrt(variance + eps) weight + bias
inline void normalize(const float* x, int64_t n, float eps, const float* weight, const float* bias, float* out) {
  const float center = mean(x, n);
  for (int64_t i = 0; i < n; i++) out[i] = x[i] - center;
  const float scale = 1.0f / std::sqrt(dot(out, out, n) / float(n) + eps);
  for (int64_t i = 0; i < n; i++) out[i] = out[i] * scale * weight[i] + bias[i];
}

inline void load_row(const Rows& rows, int64_t at, int64_t n, float* __restrict__ out) {
  if (rows.dtype == kFloat32) {
    const float* x = static_cast<const float*>(rows.data) + at;
    for (int64_t i = 0; i < n; i++) out[i] = x[i];
  } else {
    const uint16_t* x = static_cast<const uint16_t*>(rows.data) + at;
    if (rows.dtype == kBFloat16) {
      for (int64_t i = 0; i < n; i++) out[i] = from_bfloat16(x[i]);
    } else {
      for (int64_t i = 0; i < n; i++) out[i] = from_float16(x[i]);
    }
  }
}

inline void store_row(const Rows& rows, int64_t at, int64_t n, const float* __restrict__ x) {
  if (rows.dtype == kFloat32) {
    float* out = static_cast<float*>(rows.data) + at;
    for (int64_t i = 0; i < n; i++) out[i] = x[i];
  } else {
    uint16_t* out = static_cast<uint16_t*>(rows.data) + at;
    if (rows.dtype == kBFloat16) {
      for (int64_t i = 0; i < n; i++) out[i] = to_bfloat16(x[i]);
    } else {
      for (int64_t i = 0; i < n; i++) out[i] = to_float16(x[i]);
    }
  }
}

}  // namespace
