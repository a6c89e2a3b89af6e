// Expected failures: every function that can fail for a reason outside the program returns result<T>.
//
// An error names its cause and, where there is one, the way out: its detail is written for the person who
// reads it. Programmer errors are TROUPE_ASSERT, never a result. Exceptions of third-party code are caught at
// the call. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace troupe {

// Values travel in messages between nodes of different builds: append only.
enum class ec : std::uint8_t {
  none = 0,
  invalid_argument,   // the caller's input is wrong: HTTP 400
  context_exceeded,   // prompt and max_tokens do not fit the model's context: HTTP 400
  not_found,          // file, model, request or peer does not exist
  io_error,           // the operating system refused
  corrupt_file,       // a model or cache file violates its format
  unsupported,        // valid, but this build cannot do it
  out_of_memory,      // memory or KV blocks are exhausted
  queue_full,         // a bounded queue rejected the work: HTTP 503 with Retry-After
  overloaded,         // admission predicts a missed deadline: HTTP 429 with Retry-After
  draining,           // the node takes no new work
  deadline_exceeded,  // a wait ended at its stated bound: HTTP 504
  canceled,           // the client left or asked to stop
  peer_lost,          // the other node died, hung or restarted
  no_worker,          // no node of the needed role is there: HTTP 503
  identity_mismatch,  // peers serve different models or KV layouts
  fence_mismatch,     // a KV block is not the one that was promised: compute it again
  device_lost,        // the device failed and its node must leave
  unauthorized,       // missing or wrong key or secret
  address_in_use,     // a port is taken
  internal,           // a bug here
  poison,             // the request was running when its engine died, twice: HTTP 400
};

std::string_view to_string(ec code);

struct error {
  ec code = ec::internal;
  std::string detail;
};

// "corrupt_file: tensor 'blk.0' ends past the end of the file"
std::string to_string(const error& e);

template <class T>
using result = tl::expected<T, error>;

[[nodiscard]] inline tl::unexpected<error> fail(ec code, std::string detail) {
  return tl::unexpected<error>(error{code, std::move(detail)});
}

[[noreturn]] void assertion_failed(const char* expression, const char* file, int line);

}  // namespace troupe

// On in release builds too: a broken invariant stops the node before it can spread.
#define TROUPE_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::troupe::assertion_failed(#condition, __FILE__, __LINE__))

#define TROUPE_CONCAT_(a, b) a##b
#define TROUPE_CONCAT(a, b) TROUPE_CONCAT_(a, b)
#define TROUPE_TRY_(tmp, declaration, ...)                                    \
  auto tmp = (__VA_ARGS__);                                                   \
  if (!tmp) return ::tl::unexpected<::troupe::error>(std::move(tmp).error()); \
  declaration = std::move(*tmp)
// TROUPE_TRY(auto x, f()); returns f's error from the enclosing function, or names its value.
#define TROUPE_TRY(declaration, ...) \
  TROUPE_TRY_(TROUPE_CONCAT(try_, __LINE__), declaration, __VA_ARGS__)
// TROUPE_CHECK(f()); the same for result<void>.
#define TROUPE_CHECK(...)                                   \
  if (auto troupe_checked = (__VA_ARGS__); !troupe_checked) \
  return ::tl::unexpected<::troupe::error>(std::move(troupe_checked).error())
