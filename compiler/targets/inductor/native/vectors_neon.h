// Vectors of 128 bits for tiles.h, with the instructions that every aarch64 CPU has.
#pragma once

#include <arm_neon.h>

#include <cstring>
#include <utility>

#include "tokens.h"

namespace products {
namespace {

using Floats = float32x4_t;
using Integers = int32x4_t;  // of weights and x: eight of 16 bits
constexpr int kLanes = 4, kMostTokens = 6;
constexpr int rows_of(int) { return 4; }  // 24 of the 32 registers are sums

ALWAYS_INLINE int16x8_t words(Integers values) { return vreinterpretq_s16_s32(values); }
ALWAYS_INLINE uint32x4_t bits(const uint16_t* w) { return vreinterpretq_u32_u16(vld1q_u16(w)); }

ALWAYS_INLINE Floats load(const float* from) { return vld1q_f32(from); }
ALWAYS_INLINE Integers load(const int16_t* from) { return vreinterpretq_s32_s16(vld1q_s16(from)); }
ALWAYS_INLINE void store(float* to, Floats values) { vst1q_f32(to, values); }
ALWAYS_INLINE void prefetch(const void* at) { __builtin_prefetch(at, 0, 2); }

ALWAYS_INLINE Floats even(const uint16_t* w) { return vreinterpretq_f32_u32(vshlq_n_u32(bits(w), 16)); }
ALWAYS_INLINE Floats odd(const uint16_t* w) {
  return vreinterpretq_f32_u32(vandq_u32(bits(w), vdupq_n_u32(0xffff0000)));
}
ALWAYS_INLINE Floats half(const uint16_t* w) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(w))); }
ALWAYS_INLINE Integers bytes(const int8_t* w) { return vreinterpretq_s32_s16(vmovl_s8(vld1_s8(w))); }
ALWAYS_INLINE Integers nibbles(const uint8_t* w, int part) {
  const int16x8_t left = vshlq_s16(vreinterpretq_s16_u8(vld1q_u8(w)), vdupq_n_s16(static_cast<int16_t>(12 - 4 * part)));
  return vreinterpretq_s32_s16(vshrq_n_s16(left, 12));
}

// Shifted into a float16's bits, float8 is 2^8 times too small.
ALWAYS_INLINE Floats float8(const uint8_t* w) {
  uint32_t four;
  std::memcpy(&four, w, sizeof four);
  const int16x4_t wide = vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four))));
  const uint16x4_t kept = vdup_n_u16(0xbf80);  // the sign is in two bits: keep one
  const uint16x4_t shifted = vand_u16(vreinterpret_u16_s16(vshl_n_s16(wide, 7)), kept);
  return vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(shifted)), 256);
}

ALWAYS_INLINE Floats add(Floats sum, Floats w, Floats x) { return vfmaq_f32(sum, w, x); }
ALWAYS_INLINE Integers add(Integers sum, Integers w, Integers x) {
  const Integers low = vmlal_s16(sum, vget_low_s16(words(w)), vget_low_s16(words(x)));
  return vmlal_high_s16(low, words(w), words(x));
}
ALWAYS_INLINE Floats converted(Integers integers) { return vcvtq_f32_s32(integers); }
ALWAYS_INLINE Floats spread(float value) { return vdupq_n_f32(value); }

ALWAYS_INLINE void sum4(const Floats* v, float* to) {
  vst1q_f32(to, vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3])));
}
ALWAYS_INLINE void sum4(const Integers* v, int32_t* to) {
  vst1q_s32(to, vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3])));
}

}  // namespace
}  // namespace products
