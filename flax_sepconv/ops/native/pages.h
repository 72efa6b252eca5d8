// Large pages for results that are written for the first time.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sepconv {

// What XLA allocates for a large result is often memory that the process never touched: every page
// of it costs a fault at the first write, and zeros that nobody reads. Asked for large pages (of
// 2 MiB, for what lies in whole ones), the system makes one of 512 faults. Where it cannot, or the
// memory is there already, nothing changes.
inline void ask_for_large_pages(void* data, std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t page = std::uintptr_t{1} << 21;
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t first = (begin + page - 1) / page * page, last = (begin + bytes) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  static_cast<void>(data);
  static_cast<void>(bytes);
#endif
}

}  // namespace sepconv
