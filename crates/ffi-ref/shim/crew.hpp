// Threads that are lent to whoever starts and joins threads very often.
#pragma once

#include <pthread.h>

#include <memory>
#include <mutex>
#include <vector>

namespace bref {

// While a CrewScope is open on a thread, pthread_create and pthread_join of that thread take threads of the crew: a
// thread runs its function to the end, join waits for that end, and then it is kept for the next one in place of being
// ended and started anew by the system. ggml's workers cannot tell: the stack has the size of any other thread's, and what one
// function leaves in thread-local variables is all that the next one finds. A function must return (no pthread_exit), and
// its thread be joined before the crew ends.
//
// The link step has both calls of the whole library come here (build/link.rs, --wrap).
class Crew {
  public:
    Crew();
    ~Crew();
    Crew(const Crew &) = delete;
    Crew & operator=(const Crew &) = delete;

    // As pthread_create with default attributes.
    int start(pthread_t * thread, void * (*function)(void *), void * argument);

    // As pthread_join. False if the thread is not of this crew.
    bool join(pthread_t thread, void ** result);

  private:
    class Member;
    std::vector<std::unique_ptr<Member>> members_;
};

// Opens `crew` to the threads that this one starts, for one scope.
class CrewScope {
  public:
    // Without a crew, threads are the system's again.
    explicit CrewScope(Crew * crew);
    ~CrewScope();
    CrewScope(const CrewScope &) = delete;
    CrewScope & operator=(const CrewScope &) = delete;

  private:
    Crew * outer_;
};

}  // namespace bref
