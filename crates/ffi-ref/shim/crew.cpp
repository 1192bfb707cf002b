#include "crew.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>

#include <errno.h>
#include <sched.h>

extern "C" {
int __real_pthread_create(pthread_t * thread, const pthread_attr_t * attributes, void * (*function)(void *),
                          void * argument);
int __real_pthread_join(pthread_t thread, void ** result);
int __wrap_pthread_create(pthread_t * thread, const pthread_attr_t * attributes, void * (*function)(void *),
                          void * argument);
int __wrap_pthread_join(pthread_t thread, void ** result);
}

namespace bref {
namespace {

// How long a thread looks for a change before it sleeps. Waking a thread takes as long as many a node, and between two
// nodes lies no more than the copy of a tap.
constexpr std::chrono::microseconds PATIENCE{300};

thread_local Crew * open_crew = nullptr;

}  // namespace

// One thread. Its state is changed by its owner (IDLE to BUSY, DONE to IDLE, IDLE to OVER) and by itself (BUSY to DONE).
class Crew::Member {
  public:
    // 0, or the error of pthread_create.
    int open() { return __real_pthread_create(&thread_, nullptr, run, this); }

    void close() {
        change(OVER);
        __real_pthread_join(thread_, nullptr);
    }

    pthread_t thread() const { return thread_; }
    bool idle() const { return state_.load(std::memory_order_acquire) == IDLE; }

    void start(void * (*function)(void *), void * argument) {
        function_ = function;
        argument_ = argument;
        change(BUSY);
    }

    void * join() {
        wait([](State state) { return state == DONE; });
        state_.store(IDLE, std::memory_order_release);
        return result_;
    }

  private:
    enum State { IDLE, BUSY, DONE, OVER };

    static void * run(void * argument) {
        auto * member = static_cast<Member *>(argument);
        while (member->wait([](State state) { return state == BUSY || state == OVER; }) == BUSY) {
            member->result_ = member->function_(member->argument_);
            member->change(DONE);
        }
        return nullptr;
    }

    void change(State state) {
        {
            // Locked, so that nobody who is about to sleep misses it.
            const std::lock_guard<std::mutex> lock(mutex_);
            state_.store(state, std::memory_order_release);
        }
        changed_.notify_one();
    }

    // Owner and thread never wait at the same time: one waits for what the other does.
    template <typename Wanted>
    State wait(Wanted && wanted) {
        const auto since = std::chrono::steady_clock::now();
        do {
            for (int i = 0; i < 16; ++i) {
                const State state = state_.load(std::memory_order_acquire);
                if (wanted(state)) {
                    return state;
                }
                // Whoever has work to do goes first.
                sched_yield();
            }
        } while (std::chrono::steady_clock::now() - since < PATIENCE);
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [&] { return wanted(state_.load(std::memory_order_acquire)); });
        return state_.load(std::memory_order_acquire);
    }

    pthread_t thread_ = {};
    std::atomic<State> state_{IDLE};
    std::mutex mutex_;
    std::condition_variable changed_;
    void * (*function_)(void *) = nullptr;
    void * argument_ = nullptr;
    void * result_ = nullptr;
};

Crew::Crew() = default;

Crew::~Crew() {
    for (const auto & member : members_) {
        member->close();
    }
}

int Crew::start(pthread_t * thread, void * (*function)(void *), void * argument) {
    for (const auto & member : members_) {
        if (member->idle()) {
            member->start(function, argument);
            *thread = member->thread();
            return 0;
        }
    }
    auto member = std::make_unique<Member>();
    members_.reserve(members_.size() + 1);
    if (const int error = member->open()) {
        return error;
    }
    member->start(function, argument);
    *thread = member->thread();
    members_.push_back(std::move(member));
    return 0;
}

bool Crew::join(pthread_t thread, void ** result) {
    for (const auto & member : members_) {
        if (pthread_equal(member->thread(), thread)) {
            void * returned = member->join();
            if (result != nullptr) {
                *result = returned;
            }
            return true;
        }
    }
    return false;
}

CrewScope::CrewScope(Crew * crew) : outer_(open_crew) {
    open_crew = crew;
}

CrewScope::~CrewScope() {
    open_crew = outer_;
}

}  // namespace bref

int __wrap_pthread_create(pthread_t * thread, const pthread_attr_t * attributes, void * (*function)(void *),
                          void * argument) {
    // A thread with attributes of its own is none of ours.
    if (bref::open_crew == nullptr || attributes != nullptr) {
        return __real_pthread_create(thread, attributes, function, argument);
    }
    try {
        return bref::open_crew->start(thread, function, argument);
    } catch (...) {
        return EAGAIN;
    }
}

int __wrap_pthread_join(pthread_t thread, void ** result) {
    if (bref::open_crew != nullptr && bref::open_crew->join(thread, result)) {
        return 0;
    }
    return __real_pthread_join(thread, result);
}
