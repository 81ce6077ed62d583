#include "levels.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <cstdlib>
#include <stdexcept>

namespace products {
namespace {

struct Known {
  const char* name;
  Level level;
  bool (*supported)();
};

#if defined(__x86_64__)
bool avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool avx_vnni() { return avx2() && __builtin_cpu_supports("avxvnni"); }
bool avx512() {
  return avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool avx512_vnni() { return avx512() && __builtin_cpu_supports("avx512vnni"); }
bool avx512_bf16() {
  return avx512_vnni() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
}
bool amx() {
  return avx512_bf16() && __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-int8");
}
#elif defined(__aarch64__) && defined(__linux__)
bool dotprod() { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }
bool i8mm() {
  const unsigned long found = getauxval(AT_HWCAP2);
  return dotprod() && found & HWCAP2_I8MM && found & HWCAP2_BF16;
}
#elif defined(__aarch64__)
bool dotprod() { return false; }
bool i8mm() { return false; }
#endif

// From the lowest to the highest.
constexpr Known kLevels[] = {
    {"portable", Level::kPortable, [] { return true; }},
#if defined(__x86_64__)
    {"avx2", Level::kAvx2, avx2},
    {"avx_vnni", Level::kAvxVnni, avx_vnni},
    {"avx512", Level::kAvx512, avx512},
    {"avx512_vnni", Level::kAvx512Vnni, avx512_vnni},
    {"avx512_bf16", Level::kAvx512Bf16, avx512_bf16},
    {"amx", Level::kAmx, amx},
#elif defined(__aarch64__)
    {"neon", Level::kNeon, [] { return true; }},
    {"dotprod", Level::kDotprod, dotprod},
    {"i8mm", Level::kI8mm, i8mm},
#endif
};

// `all` with those kernels of `some` that are there.
[[maybe_unused]] Kernels replaced(Kernels all, const Kernels& some) {
  for (Kernel Kernels::*kernel : {&Kernels::bfloat16, &Kernels::int8, &Kernels::int8_int8, &Kernels::int4,
                                  &Kernels::int8_many, &Kernels::int4_many})
    if ((some.*kernel).dot) all.*kernel = some.*kernel;
  return all;
}

Level highest() {
  Level found = Level::kPortable;
  for (const Known& known : kLevels)
    if (known.supported()) found = known.level;
  return found;
}

}  // namespace

Level level_named(const std::string& name) {
  for (const Known& known : kLevels)
    if (name == known.name && known.supported()) return known.level;
  throw std::invalid_argument("this CPU lacks the level " + name);
}

Level level() {
  static const Level found = [] {
    const char* const forced = std::getenv("LMI_COMPILE_ISA");
    return forced && *forced ? level_named(forced) : highest();
  }();
  return found;
}

const Kernels& kernels(Level level) {
#if defined(__x86_64__)
  static const Kernels avx_vnni = replaced(kAvx2, kAvxVnni);
#elif defined(__aarch64__)
  static const Kernels dotprod = replaced(kNeon, kDotprod), i8mm = replaced(kNeon, kI8mm);
#endif
  switch (level) {
#if defined(__x86_64__)
    case Level::kAvx2: return kAvx2;
    case Level::kAvxVnni: return avx_vnni;
    case Level::kAvx512: return kAvx512;
    case Level::kAvx512Vnni: return kAvx512Vnni;
    case Level::kAvx512Bf16:
    case Level::kAmx: return kAvx512Bf16;
#elif defined(__aarch64__)
    case Level::kNeon: return kNeon;
    case Level::kDotprod: return dotprod;
    case Level::kI8mm: return i8mm;
#endif
    default: return kPortable;
  }
}

#if defined(PRODUCTS_ALWAYS_IN_LIBRARY)  // for a test
constexpr bool kAlways = true;
#else
constexpr bool kAlways = false;
#endif

bool library_has_bfloat16(Level level) { return kAlways || level == Level::kAvx512Bf16 || level == Level::kAmx; }

bool library_has_int8(Level level) { return kAlways || level == Level::kAmx; }

}  // namespace products
