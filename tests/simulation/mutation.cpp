#include "tests/simulation/mutation.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "tests/simulation/world.hpp"

namespace troupe::mutation {

static kind planted_now = kind::none;

bool planted(kind k) {
  return k == planted_now;
}

}  // namespace troupe::mutation

namespace troupe::simulation {

std::uint64_t noticed_after(mutation::kind k, scenario_maker make, std::uint64_t first,
                            std::uint64_t count, std::string& how) {
  // In a child: a broken invariant of the product itself ends the process, and that is noticing too.
  const auto seed = first;
  {
    int ends[2];
    if (pipe(ends) != 0) return 0;
    const pid_t child = fork();
    if (child == 0) {
      close(ends[0]);
      if (freopen("/dev/null", "w", stderr) == nullptr) _exit(3);
      mutation::planted_now = k;
      for (auto s = seed; s < first + count; ++s) {
        if (write(ends[1], &s, sizeof s) != sizeof s) _exit(3);
        const auto out = run(make(s));
        if (out.violation.empty()) continue;
        if (write(ends[1], out.violation.data(), out.violation.size()) < 0) _exit(3);
        _exit(1);
      }
      _exit(0);
    }
    close(ends[1]);
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
      text.append(buffer, static_cast<std::size_t>(n));
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    std::uint64_t last = 0;
    // Seeds are eight bytes each; what is left over is the violation.
    std::size_t at = 0;
    for (std::uint64_t s = seed; at + sizeof s <= text.size(); ++s, at += sizeof s) {
      std::uint64_t told = 0;
      std::memcpy(&told, text.data() + at, sizeof told);
      if (told != s) break;
      last = told;
    }
    how = text.size() > at ? text.substr(at) : "an assertion of the product";
    return last - first + 1;
  }
}

}  // namespace troupe::simulation
