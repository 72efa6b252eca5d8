// What the compiler's C++ library, once it is linked into ours, asks of glibc but versions before
// 2.34 do not have. Defined here, and seen by nobody else, so that the library runs on them too.
#include <features.h>

#ifdef __GLIBC__
#include <pthread.h>

namespace {

pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

// A routine may come here itself: the mutex lets its owner in again.
struct Lock {
  Lock() { pthread_mutex_lock(&mutex); }
  ~Lock() { pthread_mutex_unlock(&mutex); }
};

}  // namespace

extern "C" {

// 0: there may be other threads, so counters that are shared are always changed atomically.
char __libc_single_threaded = 0;

// Asked for by locales alone.
int pthread_once(pthread_once_t* control, void (*routine)()) {
  const Lock lock;
  if (*control == PTHREAD_ONCE_INIT) {
    routine();  // Where it throws, it counts as not called.
    *control = PTHREAD_ONCE_INIT + 1;
  }
  return 0;
}
}
#endif
