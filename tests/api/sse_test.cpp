#include "api/sse.hpp"

#include <gtest/gtest.h>

namespace troupe::api {
namespace {

TEST(sse, frames_are_read_back_however_they_are_cut) {
  const std::string stream = sse_data(R"({"a":"é😀"})") + std::string(sse_ping) +
                             sse_data("[DONE]") +
                             "data: one\r\ndata: two\r\n\r\nevent: x\nid: 3\n\ndata:tight\n\n";
  for (std::size_t step : {std::size_t{1}, std::size_t{2}, std::size_t{3}, stream.size()}) {
    sse_parser p;
    std::vector<std::string> got;
    for (std::size_t at = 0; at < stream.size(); at += step) {
      p.push(std::string_view(stream).substr(at, step));
      while (auto data = p.next()) got.push_back(*data);
    }
    EXPECT_EQ(got, (std::vector<std::string>{R"({"a":"é😀"})", "[DONE]", "one\ntwo", "tight"}))
        << step;
  }
}

TEST(sse, waits_for_the_empty_line) {
  sse_parser p;
  p.push("data: half\n");
  EXPECT_FALSE(p.next());
  p.push("\n");
  EXPECT_EQ(p.next(), "half");
}

}  // namespace
}  // namespace troupe::api
