// Problems of random shape: the same ones for the same seed, wherever this is compiled.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "problem.h"

namespace sepconv::testing {

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  // Both ends included. The distributions of the standard library differ from one to the other.
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool percent(std::int64_t chance) { return between(1, 100) <= chance; }
  std::int64_t one_of(std::initializer_list<std::int64_t> values) {
    return values.begin()[between(0, static_cast<std::int64_t>(values.size()) - 1)];
  }
  // In [-1, 1).
  double value() { return static_cast<double>(engine_() >> 11) * 0x1p-52 - 1; }

 private:
  std::mt19937_64 engine_;
};

inline std::int64_t reach(const Problem& p) { return (p.taps - 1) * p.dilation; }

// Products that a contraction adds up, those with padding included.
inline std::int64_t terms(const Problem& p) {
  return p.batch * p.output_length * p.taps * p.lanes();
}

inline std::string describe(const Problem& p) {
  const auto field = [](const char* name, std::int64_t value) {
    return std::string(name) + "=" + std::to_string(value);
  };
  return field("batch", p.batch) + field(" length", p.length) + field(" channels", p.channels) +
         field(" multiplier", p.multiplier) + field(" taps", p.taps) + field(" stride", p.stride) +
         field(" dilation", p.dilation) + field(" pad_low", p.pad_low) +
         field(" output_length", p.output_length);
}

// Channels or filters: few, many, and around the widths of vectors.
inline std::int64_t random_width(Random& random) {
  if (random.percent(25)) return random.between(1, 4);
  if (random.percent(50)) return random.one_of({4, 8, 16, 32, 64}) + random.between(-1, 1);
  return random.between(1, 90);
}

inline std::int64_t random_multiplier(Random& random) {
  if (random.percent(55)) return 1;
  return random.percent(90) ? random.between(2, 5) : 33;
}

inline std::int64_t random_length(Random& random, bool large) {
  if (large) return random.between(100, 3000);
  if (random.percent(8)) return 1;
  return random.percent(75) ? random.between(2, 60) : random.between(61, 400);
}

inline std::int64_t random_taps(Random& random, std::int64_t length) {
  if (random.percent(12)) return 1;
  if (random.percent(6)) return std::min<std::int64_t>(length, 80) + random.between(1, 9);
  return random.percent(60) ? random.between(2, 9) : random.between(10, 60);
}

inline std::int64_t random_dilation(Random& random, std::int64_t length) {
  if (random.percent(55)) return 1;
  return random.percent(85) ? random.between(2, 20) : length + random.between(0, 40);
}

// Padding between none and the whole reach on the left, and as much or more on the right; sometimes
// steps of the input that are never read.
inline void choose_padding(Random& random, Problem& p) {
  p.pad_low = random.percent(60) ? random.one_of({0, reach(p) / 2, reach(p)})
                                 : random.between(0, reach(p));
  const std::int64_t needed = std::max<std::int64_t>(0, reach(p) + 1 - p.length - p.pad_low);
  std::int64_t pad_high = needed;
  if (random.percent(60)) pad_high += random.between(0, std::min<std::int64_t>(reach(p), 90));
  if (random.percent(8)) pad_high += random.between(1, 20);
  p.output_length = (p.length + p.pad_low + pad_high - reach(p) - 1) / p.stride + 1;
  if (random.percent(4)) p.output_length = 1;
  if (random.percent(8)) p.output_length = random.between(1, p.output_length);
  if (random.percent(8))  // A few steps of streams.
    p.output_length = std::min<std::int64_t>(p.output_length, random.between(1, 9));
}

// A large problem is cut into several pieces of work in every contraction.
inline Problem random_problem(Random& random, bool large) {
  const std::int64_t least = large ? 1 << 20 : 1;
  const std::int64_t most = large ? 3 << 19 : 1 << 17;
  for (;;) {
    Problem p;
    p.channels = random_width(random);
    p.multiplier = random_multiplier(random);
    p.batch = random.percent(70) ? random.between(1, 5) : random.between(6, 40);
    p.length = random_length(random, large);
    p.taps = random_taps(random, p.length);
    p.stride = random.percent(55) ? 1 : random.between(2, 4);
    p.dilation = random_dilation(random, p.length);
    choose_padding(random, p);
    const std::int64_t values = p.batch * (p.length * p.channels + p.output_length * p.lanes());
    if (terms(p) >= least && terms(p) <= most && values <= most / 8) return p;
  }
}

// Filters of a pointwise stage behind it.
inline std::int64_t random_filters(Random& random, const Problem& p, bool large) {
  const std::int64_t most = large ? 3 << 20 : 1 << 18;
  std::int64_t filters = random_width(random);
  while (filters > 1 && p.batch * p.output_length * p.lanes() * filters > most) filters /= 2;
  return filters;
}

}  // namespace sepconv::testing
