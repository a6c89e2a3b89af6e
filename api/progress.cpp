#include "api/progress.hpp"

#include <unistd.h>

#include <cctype>
#include <cstdio>

#include "base/log.hpp"

namespace troupe::api {
namespace {

// The last digit of a percentage is dropped, so that a log has ten lines and not a hundred.
std::string in_tenths(std::string text) {
  const auto percent = text.rfind(" %");
  if (percent != std::string::npos && percent > 0 &&
      std::isdigit(static_cast<unsigned char>(text[percent - 1])))
    text[percent - 1] = '0';
  return text;
}

}  // namespace

progress::progress() : terminal_(::isatty(STDERR_FILENO) != 0) {}

void progress::show(const std::string& text) {
  if (text.empty()) return;
  const std::string shown = terminal_ ? text : in_tenths(text);
  if (shown == last_) return;
  last_ = shown;
  if (terminal_)
    std::fprintf(stderr, "\r\033[K%s", shown.c_str());
  else
    spdlog::info("{}", shown);
}

void progress::finish() {
  if (terminal_ && !last_.empty()) std::fputs("\r\033[K", stderr);
  last_.clear();
}

}  // namespace troupe::api
