// The lanes of one item of the gradients, and the scratch memory of its parts.

// Parts of a thread's scratch memory, one behind the other.
class Parts {
 public:
  explicit Parts(void* begin) : begin_(static_cast<char*>(begin)) {}

  template <typename V>
  V* take(std::int64_t count) {
    char* const part = begin_ + bytes_;
    bytes_ += (count * sizeof(V) + 63) / 64 * 64;
    return reinterpret_cast<V*>(part);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  char* const begin_;
  std::size_t bytes_ = 0;
};

template <typename T>
struct ItemLanes {
  using A = Accumulator<T>;
  using H = Hidden<T>;

  ItemLanes(const GradientsPlan<T>& plan, std::int64_t first, std::int64_t count)
      : lane(first), lanes(count), correlation(plan.forward(first, count)),
        hidden{correlation, plan.p.output_length, count, plan.p.batch, plan.p.y_parts} {}
  ItemLanes(const ItemLanes&) = delete;
  ItemLanes& operator=(const ItemLanes&) = delete;

  // Call f(example, its index in the group).
  template <typename F>
  void each_example(std::int64_t group, F f) const {
    for (std::int64_t i = 0; i < hidden.examples(group); ++i) f(hidden.first_batch(group) + i, i);
  }

  const std::int64_t lane, lanes;
  const Correlation<T, H> correlation;
  const HiddenBlock<T, H> hidden;
};
