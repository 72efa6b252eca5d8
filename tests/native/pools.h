// Pools of every temper, and a watchdog for those who would wait for ever.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
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

// Ends the program when nothing was heard for some time.
class Watchdog {
 public:
  explicit Watchdog(std::chrono::seconds patience)
      : patience_(patience), thread_([this] { watch(); }) {}
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
  void watch() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      if (!changed_.wait_for(lock, patience_, [this] { return heard_; })) {
        std::fprintf(stderr, "FAILED: does not end (a deadlock?): %s\n", what_.c_str());
        std::fflush(stderr);
        std::_Exit(1);
      }
      heard_ = false;
      if (what_.empty()) return;
    }
  }

  const std::chrono::seconds patience_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string what_ = "the start";
  bool heard_ = false;
  std::thread thread_;
};

}  // namespace sepconv::testing
