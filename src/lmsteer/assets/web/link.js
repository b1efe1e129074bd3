(...values) => {
  const link = values.pop();
  if (link) history.replaceState(null, '', link);
}
