// The native kernels on problems of random shape, against their definition.
//
//   random_shapes [problems] [first seed]
//
// Each problem is computed by every instruction set of this processor, for all types, with pools of
// every temper; all operands and results lie in heap memory of exactly their size. Built with
// sanitizers by `make sanitize`. Stops at the first mismatch, which `random_shapes 1 SEED` repeats. From
// another seed than 1 on, random problems are all: what else there is (wide shapes, calls on all
// threads, a lack of memory) takes too long under emulation.
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "instruction_sets.h"
#include "limited_batches.h"
#include "operations.h"
#include "pools.h"
#include "problem.h"
#include "problems.h"
#include "quantized_shapes.h"
#include "reference.h"
#include "subject.h"

// Fresh memory holds NaN, and stack frames that were left are guarded like memory that was freed.
extern "C" const char* __asan_default_options() {
  return "max_malloc_fill_size=1073741824:malloc_fill_byte=255:detect_stack_use_after_return=1";
}
extern "C" const char* __tsan_default_options() { return "halt_on_error=1"; }

namespace sepconv::testing {
namespace {

struct Pools {
  ThreadPool one{1}, two{2}, three{3}, seven{7};
};

// What the program has done, for its last line.
struct Tally {
  std::int64_t calls = 0, late_tasks = 0;
};

template <typename T>
Arrays<T> random_operands(Random& random, const std::vector<Shape>& shapes) {
  Arrays<T> operands;
  for (const Shape& shape : shapes) {
    operands.emplace_back(shape.size());
    for (T& value : operands.back()) value = narrow<T>(random.value());
  }
  return operands;
}

// Put NaN or an infinity into one operand: one element, or all of its step, channel or example.
template <typename T>
void poison(Random& random, const std::vector<Shape>& shapes, Arrays<T>& operands) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::initializer_list<double> poisons{std::numeric_limits<double>::quiet_NaN(), kInfinity,
                                              -kInfinity};
  const T value = narrow<T>(poisons.begin()[random.between(0, 2)]);
  const std::int64_t which = random.between(0, static_cast<std::int64_t>(shapes.size()) - 1);
  const Shape& shape = shapes[which];
  if (shape.size() == 0) return;
  const std::int64_t outer = random.between(0, shape.outer - 1);
  const std::int64_t row = random.between(0, shape.rows - 1);
  const std::int64_t column = random.between(0, shape.columns - 1);
  const bool rows = random.percent(30), columns = random.percent(30);
  for (std::int64_t i = 0; i < shape.rows; ++i)
    for (std::int64_t j = 0; j < shape.columns; ++j)
      if ((i == row || rows) && (j == column || columns))
        operands[which][(outer * shape.rows + i) * shape.columns + j] = value;
}

class Check {
 public:
  Check(std::uint64_t seed, const std::vector<const Kernels*>& sets, Pools& pools,
        Watchdog& watchdog, Tally& tally)
      : random_(seed), sets_(sets), pools_(pools), tally_(tally) {
    const bool large = seed % 16 == 0;
    const Problem p = random_problem(random_, large);
    const std::int64_t filters = random_filters(random_, p, large);
    const bool bias = random_.percent(70);
    const Activation activation{random_.between(0, 3)}, of_doubles{random_.between(0, 2)};
    name(seed, p, filters, bias, watchdog);
    all("float32", contractions(p, bias, activation, &Kernels::f32));
    all("float64", contractions(p, bias, of_doubles, &Kernels::f64));
    all("bfloat16", contractions(p, bias, activation, &Kernels::bf16));
    all("bfloat16 to float32", contractions(p, bias, activation, &Kernels::bf16_to_f32));
    all("float16", contractions(p, bias, activation, &Kernels::f16));
    all("float16 to float32", contractions(p, bias, activation, &Kernels::f16_to_f32));
    both_stages(p, filters, bias, activation, of_doubles);
    in_integers(p, filters);
  }

  // Both stages of one problem.
  Check(const Problem& p, std::int64_t filters, const std::vector<const Kernels*>& sets,
        Pools& pools, Watchdog& watchdog, Tally& tally)
      : random_(1), sets_(sets), pools_(pools), tally_(tally) {
    name(1, p, filters, true, watchdog);
    both_stages(p, filters, true, Activation::kSilu, Activation::kRelu6);
    in_integers(p, filters);
  }

 private:
  void name(std::uint64_t seed, const Problem& p, std::int64_t filters, bool bias,
            Watchdog& watchdog) {
    name_ = "seed " + std::to_string(seed) + ": " + describe(p) +
            " filters=" + std::to_string(filters) + (bias ? "" : " without bias");
    watchdog.hear(name_);
  }

  void both_stages(const Problem& p, std::int64_t filters, bool bias, Activation activation,
                   Activation of_doubles) {
    const std::int64_t wanted = random_.percent(60) ? 7 : random_.between(1, 7);
    all("float32", separable(p, filters, bias, activation, wanted, &Kernels::separable_f32));
    all("float64", separable(p, filters, bias, of_doubles, wanted, &Kernels::separable_f64));
    all("bfloat16", separable(p, filters, bias, activation, wanted, &Kernels::separable_bf16));
    all("float16", separable(p, filters, bias, activation, wanted, &Kernels::separable_f16));
  }

  void in_integers(const Problem& p, std::int64_t filters) {
    ImmediatePool immediate;
    IdlePool never;
    check_quantized(name_, random_, p, filters, all_quantized(),
                    {&pools_.one, &pools_.three, &immediate, &never});
  }

  template <typename T, typename R>
  void all(const char* types, const std::vector<Operation<T, R>>& operations) {
    for (const Operation<T, R>& operation : operations) {
      Arrays<T> operands = random_operands<T>(random_, operation.operands);
      const auto definition = define(operation, operands, false);
      for (const Kernels* set : sets_)
        same_with_all_pools<T, R>({name_, types, *set, operation}, operands, definition);
      poison(random_, operation.operands, operands);
      const auto poisoned = define(operation, operands, false);
      const auto with_padding = define(operation, operands, true);
      for (const Kernels* set : sets_) {
        const Subject<T, R> subject{name_, types, *set, operation};
        subject.expect_close(subject.compute(operands, pools_.two), poisoned, with_padding);
        ++tally_.calls;
      }
    }
  }

  template <typename T, typename R>
  static std::vector<Sums> define(const Operation<T, R>& operation, const Arrays<T>& operands,
                                  bool padding) {
    Arrays<double> wide;
    for (const auto& operand : operands) {
      wide.emplace_back();
      for (const T value : operand) wide.back().push_back(widen(value));
    }
    return operation.define(wide, padding);
  }

  template <typename T, typename R>
  void same_with_all_pools(const Subject<T, R>& subject, const Arrays<T>& operands,
                           const std::vector<Sums>& definition) {
    const Arrays<R> alone = subject.compute(operands, pools_.one);
    subject.expect_close(alone, definition);
    const auto expect_same = [&](Pool& pool, const char* name) {
      subject.expect_same(alone, subject.compute(operands, pool), name);
      ++tally_.calls;
    };
    expect_same(pools_.one, "the same thread again");
    expect_same(pools_.two, "2 threads");
    expect_same(pools_.three, "3 threads");
    expect_same(pools_.seven, "7 threads");
    expect_same(pools_.seven, "7 threads again");
    ImmediatePool immediate;
    expect_same(immediate, "tasks run as they come");
    IdlePool never;
    expect_same(never, "tasks that never run");
    IdlePool late;
    expect_same(late, "tasks that run too late");
    tally_.late_tasks += late.run_all();
    ++tally_.calls;
  }

  Random random_;
  const std::vector<const Kernels*>& sets_;
  Pools& pools_;
  Tally& tally_;
  std::string name_;
};

// Calls at the same time on all threads of the pool that they share, and on one beside it: each
// waits for its own work alone, so none waits for ever.
void calls_on_all_threads(const Subject<float, float>& subject, const Arrays<float>& operands,
                          ThreadPool& pool, Tally& tally) {
  ThreadPool alone(1);
  const Arrays<float> expected = subject.compute(operands, alone);
  const std::int64_t callers = pool.threads();
  std::mutex mutex;
  std::condition_variable changed;
  std::int64_t begun = 0, ended = 0;
  for (std::int64_t i = 0; i < callers; ++i)
    pool.schedule([&] {
      std::unique_lock<std::mutex> lock(mutex);
      ++begun;
      changed.notify_all();
      changed.wait(lock, [&] { return begun == callers; });
      lock.unlock();
      for (int call = 0; call < 5; ++call)
        subject.expect_same(expected, subject.compute(operands, pool), "calls on all its threads");
      lock.lock();
      ++ended;
      changed.notify_all();
    });
  subject.expect_same(expected, subject.compute(operands, pool), "calls on all threads but this");
  std::unique_lock<std::mutex> lock(mutex);
  changed.wait(lock, [&] { return ended == callers; });
  tally.calls += 5 * callers + 2;
}

void check_threads(const std::vector<const Kernels*>& sets, Pools& pools, Watchdog& watchdog,
                   Tally& tally) {
  const Problem p{12, 150, 19, 1, 9, 1, 1, 4, 150};
  const std::string name = "calls on all threads of a pool: " + describe(p);
  watchdog.hear(name);
  Random random(1);
  std::vector<Operation<float, float>> operations = contractions(p, true, Activation::kNone, &Kernels::f32);
  for (auto& operation : separable(p, 40, true, Activation::kNone, 7, &Kernels::separable_f32))
    operations.push_back(operation);
  for (const auto& operation : operations) {
    const Arrays<float> operands = random_operands<float>(random, operation.operands);
    for (const Kernels* set : sets)
      for (ThreadPool* pool : {&pools.two, &pools.seven})
        calls_on_all_threads({name, "float32", *set, operation}, operands, *pool, tally);
  }
}

// Shapes that random ones seldom are: large weights for few rows, several ranges of lanes, chunks
// within an example, results that are written past the caches, and a chunk of streams that is shared.
void check_wide(const std::vector<const Kernels*>& sets, Pools& pools, Watchdog& watchdog,
                Tally& tally) {
  Check({1, 37, 431, 1, 4, 1, 1, 3, 37}, 333, sets, pools, watchdog, tally);
  Check({3, 11, 95, 3, 3, 1, 1, 1, 11}, 520, sets, pools, watchdog, tally);
  Check({1, 2100, 5, 1, 40, 1, 2, 39, 2100}, 9, sets, pools, watchdog, tally);
  Check({2, 700, 301, 1, 3, 1, 1, 1, 700}, 3, sets, pools, watchdog, tally);
  Check({5, 38, 260, 1, 31, 1, 1, 0, 8}, 520, sets, pools, watchdog, tally);
}

// A lack of memory in some items reaches the caller, after all items, in whatever thread they ran.
void check_lack_of_memory(ThreadPool& pool, Watchdog& watchdog) {
  watchdog.hear("items without memory");
  for (int call = 0; call < 100; ++call) {
    std::atomic<int> done{0};
    bool thrown = false;
    try {
      parallel_for(pool, 50, 64, [&](std::int64_t item, void*) {
        ++done;
        if (item % 7 == 3) throw std::bad_alloc();
      });
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    if (!thrown || done != 50) {
      std::fprintf(stderr, "items without memory: %d of 50 begun, thrown: %d\n", done.load(), thrown);
      std::exit(1);
    }
  }
}

int run(std::int64_t problems, std::uint64_t first_seed) {
  const std::vector<const Kernels*> sets = all_kernels();
  std::string names;
  for (const Kernels* set : sets) names += std::string(names.empty() ? "" : ", ") + set->name;
  for (const QuantizedKernels* set : all_quantized()) names += std::string(", integers ") + set->name;
  Tally tally;
  Pools pools;
  Watchdog watchdog;
  if (first_seed <= 1) {
    check_threads(sets, pools, watchdog, tally);
    check_lack_of_memory(pools.seven, watchdog);
    check_wide(sets, pools, watchdog, tally);
  }
  for (std::uint64_t seed = first_seed; seed < first_seed + problems; ++seed) {
    check_limited(seed, sets, pools.one, pools.seven, watchdog);
    Check(seed, sets, pools, watchdog, tally);
  }
  std::printf("%lld random problems, %lld calls (%s), %lld tasks run too late: all as defined\n",
              static_cast<long long>(problems), static_cast<long long>(tally.calls),
              names.c_str(), static_cast<long long>(tally.late_tasks));
  return 0;
}

}  // namespace
}  // namespace sepconv::testing

int main(int argc, char** argv) {
  const long long problems = argc > 1 ? std::atoll(argv[1]) : 200;
  const long long first_seed = argc > 2 ? std::atoll(argv[2]) : 1;
  if (problems < 1 || first_seed < 0) {
    std::fprintf(stderr, "usage: %s [problems] [first seed]\n", argv[0]);
    return 2;
  }
  return sepconv::testing::run(problems, static_cast<std::uint64_t>(first_seed));
}
