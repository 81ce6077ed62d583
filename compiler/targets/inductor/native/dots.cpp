#include "dots.h"

namespace products {

const Dots& best_dots() {
#if defined(__x86_64__)
  static const Dots& found = []() -> const Dots& {
    const bool vectors = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!vectors || !__builtin_cpu_supports("avx512vnni")) return kPortable;
    const bool newer = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
    return newer ? kAvx512Bf16 : kAvx512;
  }();
  return found;
#else
  return kPortable;
#endif
}

}  // namespace products
