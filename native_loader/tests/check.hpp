// The little that these tests need of a test framework. Each test program is one source file;
// `main` comes from here.
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace check {

class Failed : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Test {
    std::string name;
    std::function<void()> body;
};

inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

struct Registration {
    Registration(std::string name, std::function<void()> body) {
        tests().push_back({std::move(name), std::move(body)});
    }
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
    throw Failed(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

inline void is_true(bool condition, const char* text, const char* file, int line) {
    if (!condition) {
        fail(file, line, std::string("not true: ") + text);
    }
}

template <typename A, typename B>
void are_equal(const A& a, const B& b, const char* text, const char* file, int line) {
    if (!(a == b)) {
        std::ostringstream what;
        what << "not equal: " << text << " (";
        if constexpr (requires { what << a << b; }) {
            what << a << " and " << b;
        } else {
            what << "two values";
        }
        what << ")";
        fail(file, line, what.str());
    }
}

template <typename Expected>
Expected thrown_by(const std::function<void()>& action, const char* text, const char* file,
                   int line) {
    try {
        action();
    } catch (const Expected& error) {
        return error;
    }
    fail(file, line, std::string("nothing thrown: ") + text);
}

inline int run_all() {
    int n_failed = 0;
    for (const Test& test : tests()) {
        try {
            test.body();
            std::printf("ok      %s\n", test.name.c_str());
        } catch (const std::exception& error) {
            ++n_failed;
            std::printf("FAILED  %s: %s\n", test.name.c_str(), error.what());
        }
    }
    return n_failed == 0 ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                                            \
    static void test_##name();                                                \
    static const check::Registration registration_##name(#name, test_##name); \
    static void test_##name()
#define CHECK(condition) check::is_true((condition), #condition, __FILE__, __LINE__)
#define CHECK_EQUAL(a, b) check::are_equal((a), (b), #a " == " #b, __FILE__, __LINE__)
#define CHECK_THROWS(type, action) \
    check::thrown_by<type>([&] { (void)(action); }, #action, __FILE__, __LINE__)

int main() {
    return check::run_all();
}
