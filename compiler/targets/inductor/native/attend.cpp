#include "attend.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "floats.h"

namespace attention {
namespace {

constexpr int64_t kLeast = 1 << 16;  // elements to read above which starting threads pays off

// A block of positions of one row and kv head, for the query of one token.
struct Item {
  int64_t query, kv_head, first, positions;
};

struct Sizes {
  int64_t group, width;

  explicit Sizes(const Cache& c, const Queries& q)
      : group(q.heads / c.kv_heads), width((c.dim + kWidth - 1) / kWidth * kWidth) {}
  int64_t part() const { return group * (width + 2); }  // floats of an item's result: out, largest, sum
};

// All items, ordered by query, then by block, then by kv head.
std::vector<Item> items_of(const Cache& c, const Queries& q) {
  std::vector<Item> found;
  for (int64_t query = 0; query < q.rows * q.tokens; ++query) {
    const int64_t end = q.positions[query] + 1, begin = q.window ? std::max<int64_t>(end - q.window, 0) : 0;
    for (int64_t first = begin; first < end; first += kBlock)
      for (int64_t head = 0; head < c.kv_heads; ++head)
        found.push_back({query, head, first, std::min(kBlock, end - first)});
  }
  return found;
}

size_t bytes_of(Stored stored) {
  switch (stored) {
    case Stored::kFloat32: return 4;
    case Stored::kBfloat16:
    case Stored::kFloat16: return 2;
    case Stored::kInt8:
    case Stored::kFloat8: return 1;
  }
  return 0;
}

Blocks::Run run_of(const Blocks& blocks, Stored stored) {
  switch (stored) {
    case Stored::kFloat32: return blocks.float32;
    case Stored::kBfloat16: return blocks.bfloat16;
    case Stored::kFloat16: return blocks.float16;
    case Stored::kInt8: return blocks.int8;
    case Stored::kFloat8: return blocks.float8;
  }
  return nullptr;
}

// Computes an item. `room`: scratch of group * (width + kBlock) floats.
template <class Float>
void run_item(const Cache& c, const Queries& q, const Sizes& sizes, const Item& item, Blocks::Run run, float* room,
              float* part) {
  const int64_t head = item.kv_head * sizes.group, row = item.query / q.tokens;
  const float factor = (c.k_scale ? c.k_scale[item.kv_head] : 1.0f) * q.scale;
  const auto* query = static_cast<const typename Float::Stored*>(q.q) + (item.query * q.heads + head) * c.dim;
  for (int64_t h = 0; h < sizes.group; ++h) {
    for (int64_t i = 0; i < c.dim; ++i) room[h * sizes.width + i] = Float::load(query[h * c.dim + i]) * factor;
    std::fill(room + h * sizes.width + c.dim, room + (h + 1) * sizes.width, 0.0f);
  }
  const auto first = static_cast<size_t>(((row * c.length + item.first) * c.kv_heads + item.kv_head) * c.dim);
  const size_t offset = first * bytes_of(c.stored);
  float* const out = part;
  run({static_cast<const char*>(c.k) + offset, static_cast<const char*>(c.v) + offset, c.kv_heads * c.dim,
       item.positions, c.dim, room, sizes.group, sizes.width, q.slopes ? q.slopes + head : nullptr,
       static_cast<float>(item.first - q.positions[item.query]), q.softcap, room + sizes.group * sizes.width,
       out + sizes.group * sizes.width, out + sizes.group * (sizes.width + 1), out});
}

// Combines the results of a query's blocks to y of one head. Results are `step` floats apart.
template <class Float>
void put_together(const Cache& c, const Sizes& sizes, int64_t h, const float* part, int64_t count, int64_t step,
                  float scale, typename Float::Stored* y) {
  const auto largest = [&](int64_t i) { return part[i * step + sizes.group * sizes.width + h]; };
  float most = largest(0), sum = 0;
  for (int64_t i = 1; i < count; ++i) most = largest(i) > most ? largest(i) : most;
  std::vector<float> whole(static_cast<size_t>(c.dim));
  for (int64_t i = 0; i < count; ++i) {
    const float times = std::exp(largest(i) - most), *out = part + i * step + h * sizes.width;
    sum += part[i * step + sizes.group * (sizes.width + 1) + h] * times;
    for (int64_t d = 0; d < c.dim; ++d) whole[static_cast<size_t>(d)] += out[d] * times;
  }
  for (int64_t d = 0; d < c.dim; ++d) y[d] = Float::store(whole[static_cast<size_t>(d)] / sum * scale);
}

template <class Float>
void attend_as(const Cache& c, const Queries& q, const Blocks& blocks) {
  const Sizes sizes(c, q);
  const auto items = items_of(c, q);
  const auto count = static_cast<int64_t>(items.size()), queries = q.rows * q.tokens, part = sizes.part();
  const auto room = sizes.group * (sizes.width + kBlock);
  const auto run = run_of(blocks, c.stored);
  const std::unique_ptr<float[]> parts(new float[static_cast<size_t>(count * part)]);
  const std::unique_ptr<float[]> rooms(new float[static_cast<size_t>(room * omp_get_max_threads())]);
  std::vector<int64_t> begins(static_cast<size_t>(queries + 1), count);  // first item of each query
  for (int64_t i = count - 1; i >= 0; --i) begins[static_cast<size_t>(items[static_cast<size_t>(i)].query)] = i;
#pragma omp parallel if (2 * count * kBlock * c.dim >= kLeast)
  {
    // In order, a block at a time: the last blocks of rows are shorter.
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < count; ++i)
      run_item<Float>(c, q, sizes, items[static_cast<size_t>(i)], run, rooms.get() + room * omp_get_thread_num(),
                      parts.get() + i * part);
#pragma omp for schedule(static)
    for (int64_t at = 0; at < queries * q.heads; ++at) {
      const int64_t query = at / q.heads, head = at % q.heads, kv_head = head / sizes.group;
      const int64_t begin = begins[static_cast<size_t>(query)], end = begins[static_cast<size_t>(query + 1)];
      put_together<Float>(c, sizes, head % sizes.group, parts.get() + (begin + kv_head) * part,
                          (end - begin) / c.kv_heads, part * c.kv_heads, c.v_scale ? c.v_scale[kv_head] : 1.0f,
                          static_cast<typename Float::Stored*>(q.y) + at * c.dim);
    }
  }
}

}  // namespace

const Blocks& best_blocks() {
#if defined(__x86_64__)
  static const bool vectors = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (vectors) return kAvx512;
#endif
  return kPortable;
}

void attend(const Cache& cache, const Queries& queries, const Blocks& blocks) {
  switch (queries.dtype) {
    case Dtype::kFloat32: return attend_as<products::Float32>(cache, queries, blocks);
    case Dtype::kBfloat16: return attend_as<products::Bfloat16>(cache, queries, blocks);
    case Dtype::kFloat16: return attend_as<products::Float16>(cache, queries, blocks);
  }
}

}  // namespace attention
