// A real other process for the transport's tests: this test program, started again in a role. Talks by lines over
// its standard streams; dies with its parent.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>

namespace troupe::transport::testing {

class child {
 public:
  // role: a DISABLED_ test of child.cpp. Arguments travel in the environment.
  child(const std::string& role, const std::string& transports, const std::string& path);
  ~child();  // SIGKILL, if it still runs
  child(const child&) = delete;
  child& operator=(const child&) = delete;

  void say(const std::string& line);
  // One line without its end; empty after the limit or at the end of the stream.
  std::string hear(std::chrono::milliseconds limit = std::chrono::seconds(60));
  void signal(int number);
  // Waits for the end, at most a minute; the exit status as waitpid gives it, -1 if it still runs.
  int wait();

 private:
  pid_t pid_ = -1;
  int to_ = -1, from_ = -1;
  std::string heard_;
};

std::string to_hex_text(const std::string& bytes);
std::string from_hex_text(const std::string& text);

}  // namespace troupe::transport::testing
