#include <thread>
#include <vector>

#include "check.hpp"
#include "pilotlight/native/back_off.hpp"

using namespace pilotlight::native;

namespace {

// On which of so many occasions something that always fails is tried.
std::vector<int> tries_of_failures(BackOff& back_off, int n_occasions) {
    std::vector<int> tries;
    for (int occasion = 0; occasion < n_occasions; ++occasion) {
        if (back_off.may_try()) {
            tries.push_back(occasion);
            back_off.failed();
        }
    }
    return tries;
}

}  // namespace

TEST(tries_on_every_occasion_what_succeeds) {
    BackOff back_off(8);

    for (int i = 0; i < 100; ++i) {
        CHECK(back_off.may_try());
        back_off.succeeded();
    }
}

TEST(tries_ever_more_seldom_what_fails_but_never_gives_up) {
    BackOff back_off(8);

    // After each try 1, 2, 4, 8, 8, 8 … occasions pass.
    CHECK(tries_of_failures(back_off, 40) == (std::vector<int>{0, 2, 5, 10, 19, 28, 37}));
}

TEST(begins_anew_after_a_success) {
    BackOff back_off(8);
    (void)tries_of_failures(back_off, 19);

    CHECK(back_off.may_try());
    back_off.succeeded();

    CHECK(tries_of_failures(back_off, 6) == (std::vector<int>{0, 2, 5}));
}

TEST(passes_as_many_occasions_for_many_threads_as_for_one) {
    BackOff back_off(64);
    for (int i = 0; i < 7; ++i) {
        back_off.failed();
    }
    std::atomic<int> n_tries = 0;
    std::vector<std::thread> threads;

    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            for (int occasion = 0; occasion < 20; ++occasion) {
                n_tries += back_off.may_try() ? 1 : 0;
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }

    CHECK_EQUAL(n_tries, 4 * 20 - 64);
}
