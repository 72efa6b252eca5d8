// Pools of every temper, and a watchdog for those who would wait for ever.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "parallel.h"

namespace sepconv::testing {

// Threads that take tasks off one queue, in order.
class ThreadPool : public Pool {
 public:
  explicit ThreadPool(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { serve(); });
  }
  ~ThreadPool() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  std::int64_t threads() const override { return static_cast<std::int64_t>(threads_.size()); }
  void schedule(std::function<void()> task) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_one();
  }

 private:
  void serve() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return closed_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool closed_ = false;
  std::vector<std::thread> threads_;
};

// Runs a task within schedule(), as Eigen's pool does when its queue is full.
class ImmediatePool : public Pool {
 public:
  std::int64_t threads() const override { return 4; }
  void schedule(std::function<void()> task) override { task(); }
};

// Keeps tasks for later. Without run_all() they never run, like those of a pool whose threads a
// fork has left behind.
class IdlePool : public Pool {
 public:
  std::int64_t threads() const override { return 4; }
  void schedule(std::function<void()> task) override { tasks_.push_back(std::move(task)); }
  // On another thread than the one that scheduled them. Return their number.
  std::int64_t run_all() {
    std::thread([this] {
      for (const auto& task : tasks_) task();
    }).join();
    return static_cast<std::int64_t>(tasks_.size());
  }

 private:
  std::vector<std::function<void()>> tasks_;
};

// Ends the program when it hangs. Time on the clock says nothing of that, for other programs may
// have the processors; so it counts what its own threads have worked. It looks every second, and
// less often where it has to wait for a processor itself.
class Watchdog {
 public:
  Watchdog() : thread_([this] { watch(); }) {}
  ~Watchdog() {
    hear("");
    thread_.join();
  }
  // An empty message says that all is done.
  void hear(std::string what) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      what_ = std::move(what);
      heard_ = true;
    }
    changed_.notify_one();
  }

 private:
  // So many looks at threads that all wait are a deadlock. What wakes up to look, the sanitizers'
  // own threads too, works less than this between two looks.
  static constexpr int kLooks = 60;
  static constexpr double kNothing = 0.003;
  // Seconds of all threads together; the largest problem takes a hundredth of it.
  static constexpr double kMost = 1000;

  static double worked() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

  void watch() {
    std::unique_lock<std::mutex> lock(mutex_);
    double begun = worked(), before = begun;
    for (int idle = 0;;) {
      const bool heard = changed_.wait_for(lock, std::chrono::seconds(1), [this] { return heard_; });
      const double now = worked();
      if (heard) {
        heard_ = false;
        if (what_.empty()) return;
        begun = now;
      }
      idle = heard || now - before > kNothing ? 0 : idle + 1;
      before = now;
      if (idle >= kLooks) fail("a deadlock, all threads wait");
      if (now - begun > kMost) fail("does not end");
    }
  }
  [[noreturn]] void fail(const char* how) const {
    std::fprintf(stderr, "FAILED: %s: %s\n", how, what_.c_str());
    std::fflush(stderr);
    std::_Exit(1);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string what_ = "the start";
  bool heard_ = false;
  std::thread thread_;
};

}  // namespace sepconv::testing
