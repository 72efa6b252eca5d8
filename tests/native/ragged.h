// Zeros behind the ends of random sequences, shared by pools of every temper.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "pools.h"
#include "problems.h"
#include "tails.h"

namespace sepconv::testing {

// A batch in heap memory of exactly its size; lengths reach beyond what is possible.
struct RaggedBatch {
  std::int64_t rows, length, step;
  std::vector<std::int32_t> lengths;

  explicit RaggedBatch(Random& random)
      : rows(random.between(0, 20)), length(random.between(0, 60)) {
    // Now and then tails of many shares.
    step = random.percent(20) ? random.between(1, Tails::kShare / 8) : random.between(1, 300);
    for (std::int64_t row = 0; row < rows; ++row)
      lengths.push_back(static_cast<std::int32_t>(random.between(-2, length + 2)));
  }

  void expect_cleared(Pool& pool, const char* name) const {
    std::vector<char> data(static_cast<std::size_t>(rows * length * step), 'x');
    Tails{data.data(), rows, length, step, lengths.data()}.clear(pool);
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t kept = std::clamp<std::int64_t>(lengths[row], 0, length) * step;
      for (std::int64_t i = 0; i < length * step; ++i)
        if (data[row * length * step + i] != (i < kept ? 'x' : 0)) fail(name, row, i);
    }
  }

 private:
  [[noreturn]] void fail(const char* pool, std::int64_t row, std::int64_t byte) const {
    std::fprintf(stderr, "FAILED: tails of rows=%lld length=%lld step=%lld with %s: [%lld, %lld]\n",
                 static_cast<long long>(rows), static_cast<long long>(length),
                 static_cast<long long>(step), pool, static_cast<long long>(row),
                 static_cast<long long>(byte));
    std::fflush(stderr);
    std::_Exit(1);
  }
};

inline void check_tails(std::uint64_t seed, ThreadPool& one, ThreadPool& seven,
                        Watchdog& watchdog) {
  watchdog.hear("tails, seed " + std::to_string(seed));
  Random random(seed);
  const RaggedBatch batch(random);
  batch.expect_cleared(one, "1 thread");
  batch.expect_cleared(seven, "7 threads");
  ImmediatePool immediate;
  batch.expect_cleared(immediate, "tasks run as they come");
  IdlePool late;
  batch.expect_cleared(late, "tasks that run too late");
  late.run_all();
}

}  // namespace sepconv::testing
